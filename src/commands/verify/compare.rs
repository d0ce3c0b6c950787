//! The rows against the bucket's listing, and what differs by name.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::agent::audit::compare::{Judge, Short, Sight, Verdict, is_odd, short};
use crate::agent::audit::compare::{Merged, compare as merge};
use crate::base::offload::{self, Offload};
use crate::base::path::RelPath;
use crate::commands::verify::look::{Look, REQUESTS, Trouble, to_do};
use crate::commands::verify::tell::Kind;
use crate::manifest::{Entry, State};
use crate::sync::plan;

/// Paths that are settled at once: a few more than requests, as each reads its row before and after.
const SETTLING: usize = REQUESTS + 16;
/// How many files pass between two looks of the progress bar.
const STEP: u64 = 500;
/// How often a running agent is given time to end what it has begun, and how long: five seconds in all.
const LOOKS: u32 = 25;
const BETWEEN: Duration = Duration::from_millis(200);
/// Rows that are looked at for that.
const OPEN_MOST: usize = 200;
/// What is being done, for people.
const DOING: &str = "compared";

/// Compares all rows with the listing, and names what differs.
pub async fn compare(look: &Arc<Look>) -> Result<(), Trouble> {
    let mut pass = Pass {
        look: look.clone(),
        settling: JoinSet::new(),
        uncounted: HashSet::new(),
        has_to_do: false,
        passed: 0,
    };
    let Merged { seen, has_odd, .. } = merge(look, &mut pass).await?;
    pass.pass(0);
    pass.settled().await?;
    if has_odd || pass.has_to_do || look.waits() {
        if look.has_agent {
            rest(look).await?;
        }
        pass.second(&seen).await?;
        pass.settled().await?;
    }
    Ok(())
}

/// Gives a running agent a little time to end what it has begun.
async fn rest(look: &Arc<Look>) -> Result<(), Trouble> {
    for _ in 0..LOOKS {
        let (manifest, folder) = (look.manifest.clone(), look.row.id);
        let read = move || manifest.open_rows(folder, &RelPath::root(), OPEN_MOST);
        let rows = Offload::Pool.run(read).await?;
        if rows.iter().all(|row| row.state != State::Open) {
            break;
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(())
}

struct Pass {
    look: Arc<Look>,
    settling: JoinSet<Result<(), Trouble>>,
    /// Paths whose row claimed nothing when they were met, and which were not counted as compared.
    uncounted: HashSet<Short>,
    /// There are rows with something to do.
    has_to_do: bool,
    passed: u64,
}

#[async_trait]
impl Judge for Pass {
    type Error = Trouble;

    fn met(&mut self, row: &Entry, claims: bool) {
        self.pass(1);
        self.has_to_do |= to_do(row).is_some();
        if claims {
            self.look.teller().tally.compared += 1;
        } else {
            self.look.wait_for(&row.path);
            self.uncounted.insert(short(row.path.as_bytes()));
        }
    }

    async fn path(&mut self, path: RelPath, key: String) -> Result<(), Trouble> {
        self.make_room().await?;
        let look = self.look.clone();
        self.settling
            .spawn(async move { look.judge(&path, &key).await.map(drop) });
        Ok(())
    }

    async fn key(&mut self, key: &str) -> Result<(), Trouble> {
        self.make_room().await?;
        let (look, key) = (self.look.clone(), key.to_owned());
        self.settling
            .spawn(async move { look.judge_key(&key).await });
        Ok(())
    }
}

impl Pass {
    /// Goes through the rows once more: names those with something to do, and looks at those that had to wait.
    async fn second(&mut self, seen: &HashSet<Short>) -> Result<(), Trouble> {
        let mut rows = self.look.rows();
        while let Some(row) = rows.next().await? {
            let to_do = to_do(&row);
            let is_certain = plan::certain(&row).is_some();
            let has_waited = self.look.waited_for(&row.path);
            if is_certain && self.uncounted.contains(&short(row.path.as_bytes())) {
                self.look.teller().tally.compared += 1;
            }
            match self.look.keys.key(&row.path) {
                Ok(key) if is_certain => {
                    let was_seen = || seen.contains(&short(row.path.as_bytes()));
                    let is_odd = is_odd(self.look.keys.prefix(), &key);
                    if has_waited || (is_odd && !was_seen()) {
                        self.settle_again(&row, to_do.is_none(), key).await?;
                    }
                }
                _ => {}
            }
            if let Some(why) = to_do {
                self.look.say(Kind::NotLevel, &row.path, &why);
            }
        }
        Ok(())
    }

    /// Settles a path that has had its time; if it changes even now, that is what is said of it.
    async fn settle_again(
        &mut self,
        row: &Entry,
        is_level: bool,
        key: String,
    ) -> Result<(), Trouble> {
        self.make_room().await?;
        let (look, path) = (self.look.clone(), row.path.clone());
        self.settling.spawn(async move {
            if matches!(look.judge(&path, &key).await?, Verdict::Waits) && is_level {
                let why = "it is changing, or an earlier request may still change its object";
                look.say(Kind::NotLevel, &path, why);
            }
            Ok(())
        });
        Ok(())
    }

    async fn make_room(&mut self) -> Result<(), Trouble> {
        while self.settling.len() >= SETTLING {
            joined(self.settling.join_next().await)?;
        }
        Ok(())
    }

    async fn settled(&mut self) -> Result<(), Trouble> {
        while !self.settling.is_empty() {
            joined(self.settling.join_next().await)?;
        }
        Ok(())
    }

    fn pass(&mut self, count: u64) {
        self.passed += count;
        if self.passed >= STEP || count == 0 {
            let passed = std::mem::take(&mut self.passed);
            self.look.teller().passed(passed, DOING);
        }
    }
}

/// Takes what a task has returned. Its panic is ours.
pub fn joined(
    ended: Option<Result<Result<(), Trouble>, tokio::task::JoinError>>,
) -> Result<(), Trouble> {
    ended.and_then(offload::joined).unwrap_or(Ok(()))
}
