//! Everything that is wanted beside what the target has: what has to be done, and what is told already.
//!
//! A bucket that goes away meanwhile ends it as it ends a transfer; what was not compared by then is counted as not tried.

use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use crate::base::offload::{Offload, joined};
use crate::restore::look::{self, Blind, Local, Seen};
use crate::restore::patience::Patience;
use crate::restore::plan::{self, Step, There};
use crate::restore::target::{Over, Target};
use crate::restore::told::What;
use crate::restore::wanted::{Kind, Wanted};
use crate::restore::work::Work;
use crate::restore::{BATCH, Restore};

/// What came of one look.
type Looked = (Wanted, Result<Seen, Blind>);

impl Restore<'_> {
    /// Compares everything with what is there, and tells what has not to be done.
    pub(in crate::restore) async fn compare(
        &mut self,
        target: &Arc<Target>,
        wanted: Vec<Wanted>,
    ) -> Work {
        let mut plan = Work::default();
        let mut looks: JoinSet<Looked> = JoinSet::new();
        let mut patience = Patience::default();
        let mut rest = wanted.into_iter();
        while !self.is_over() {
            let batch: Vec<Wanted> = rest.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let dir = target.clone();
            let looked = Offload::Pool.run(move || {
                let locals = look::look(&dir, &batch);
                (batch, locals)
            });
            let (batch, locals) = looked.await;
            let mut pairs = batch.into_iter().zip(locals);
            while !self.is_over()
                && let Some((mut wanted, local)) = pairs.next()
            {
                if local == Local::Nothing {
                    self.decide(&mut plan, wanted, &There::Nothing);
                    continue;
                }
                let (fetcher, target) = (self.fetcher.clone(), target.clone());
                let (owners, stop) = (self.settings.owners, self.stop.clone());
                looks.spawn(async move {
                    let compared =
                        look::compare(&fetcher, &target, &mut wanted, local, owners, &stop);
                    let seen = compared.await;
                    (wanted, seen)
                });
                if looks.len() >= self.settings.requests {
                    self.looked(&mut plan, &mut patience, looks.join_next().await);
                }
            }
            self.sums.untried += pairs.len() as u64;
        }
        self.sums.untried += rest.len() as u64;
        while !self.is_over() && !looks.is_empty() {
            self.looked(&mut plan, &mut patience, looks.join_next().await);
        }
        self.sums.untried += looks.len() as u64;
        looks.shutdown().await;
        plan.sort();
        plan
    }

    /// Returns true if nothing more is begun.
    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.sums.stopped_by.is_some()
    }

    fn looked(
        &mut self,
        plan: &mut Work,
        patience: &mut Patience,
        look: Option<Result<Looked, JoinError>>,
    ) {
        let Some((wanted, seen)) = look.and_then(joined) else {
            return;
        };
        let why = match seen {
            Ok(seen) => {
                if seen.has_asked {
                    patience.answered(&mut self.sums);
                }
                return self.decide(plan, wanted, &seen.there);
            }
            Err(_) if self.stop.is_cancelled() => {
                self.sums.untried += 1;
                return;
            }
            Err(Blind::Bucket(error)) => {
                patience.refused(&error, &mut self.sums);
                error.to_string()
            }
            Err(Blind::Disk(why)) => {
                self.sums.is_unreachable = false;
                why
            }
        };
        self.told(What::Failed, Some(&wanted.path), &wanted.key, Some(&why));
    }

    fn decide(&mut self, plan: &mut Work, wanted: Wanted, there: &There) {
        let (path, key) = (Some(&wanted.path), &wanted.key);
        match plan::step(&wanted, there, self.settings.on_conflict) {
            Step::Done(by) => {
                self.happened(What::Equal, path, key, None, by);
                if wanted.kind == Kind::Folder {
                    plan.folder_stamps.push(wanted);
                }
            }
            Step::Stamp(_) => plan.stamps.push(wanted),
            Step::Make => plan.add(wanted, Over::Nothing),
            Step::Replace => plan.add(wanted, Over::Whatever),
            Step::Skip(why) => self.told(What::Skipped, path, key, Some(&why)),
            Step::Conflict(why) => self.told(What::Conflict, path, key, Some(&why)),
        }
    }
}
