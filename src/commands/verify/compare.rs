//! The rows against the bucket's listing.
//!
//! Both come in the order of their bytes, so that a page of each is in memory at a time. What does not fit that order
//! (names that a key holds escaped, and everything on a store that lists in an order of its own) is looked up by name
//! instead, and its short name remembered. Nothing but an object that is listed as its row says costs no request; whatever
//! else a page suggests is settled, so that neither a listing nor a row that is old makes a difference.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::commands::verify::look::{Look, REQUESTS, Rows, Trouble, Verdict, short, to_do};
use crate::commands::verify::tell::Kind;
use crate::manifest::{Entry, State};
use crate::store::{self, Listed};
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
        seen: HashSet::new(),
        uncounted: HashSet::new(),
        has_odd: false,
        has_to_do: false,
        is_ordered: true,
        passed: 0,
    };
    pass.first().await?;
    pass.settled().await?;
    if pass.has_odd || pass.has_to_do || look.waits() {
        if look.has_agent {
            rest(look).await?;
        }
        pass.second().await?;
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
    /// Paths that were listed and looked up by name.
    seen: HashSet<u128>,
    /// Paths whose row claimed nothing when they were met, and which were not counted as compared.
    uncounted: HashSet<u128>,
    /// There are rows that were not compared in order.
    has_odd: bool,
    /// There are rows with something to do.
    has_to_do: bool,
    /// The listing has been in order so far.
    is_ordered: bool,
    passed: u64,
}

impl Pass {
    /// Merges rows and listing.
    async fn first(&mut self) -> Result<(), Trouble> {
        let (sender, mut pages) = mpsc::channel(1);
        let mut listing = JoinSet::new();
        listing.spawn(list(self.look.clone(), sender));
        let mut rows = self.look.rows();
        let mut row = self.next(&mut rows).await?;
        let mut last = String::new();
        while let Some(page) = pages.recv().await {
            let mut by_name = Vec::new();
            for listed in page.map_err(Trouble::Bucket)? {
                if self.look.keys.is_reserved(&listed.key) {
                    continue;
                }
                if is_odd(self.look.keys.prefix(), &listed.key) {
                    by_name.push(listed);
                    continue;
                }
                self.is_ordered &= last < listed.key || last.is_empty();
                if !self.is_ordered {
                    by_name.push(listed);
                    continue;
                }
                while let Some((key, before)) = row.take_if(|(key, _)| *key < listed.key) {
                    self.settle(before.path, key).await?;
                    row = self.next(&mut rows).await?;
                }
                match row.take_if(|(key, _)| *key == listed.key) {
                    Some((key, equal)) => {
                        if !is_as_listed(&equal, &listed) {
                            self.settle(equal.path, key).await?;
                        }
                        row = self.next(&mut rows).await?;
                    }
                    None => self.settle_key(&listed.key).await?,
                }
                last = listed.key;
            }
            self.look_up(by_name).await?;
        }
        // What is left was not listed, or not in order.
        while let Some((key, left)) = row {
            if self.is_ordered || !self.seen.contains(&short(left.path.as_bytes())) {
                self.settle(left.path, key).await?;
            }
            row = self.next(&mut rows).await?;
        }
        let listed = listing.join_next().await;
        if let Some(Err(panic)) = listed
            && let Ok(panic) = panic.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        self.pass(0);
        Ok(())
    }

    /// Returns the next row that claims an object under a key in the order of paths; takes note of the others.
    async fn next(&mut self, rows: &mut Rows) -> Result<Option<(String, Entry)>, Trouble> {
        while let Some(row) = rows.next().await? {
            self.pass(1);
            self.has_to_do |= to_do(&row).is_some();
            if plan::certain(&row).is_none() {
                self.look.wait_for(&row.path);
                self.uncounted.insert(short(row.path.as_bytes()));
                continue;
            }
            self.look.teller().tally.compared += 1;
            match self.look.keys.key(&row.path) {
                Ok(key) if !is_odd(self.look.keys.prefix(), &key) => return Ok(Some((key, row))),
                // A row that claims an object under no key is one that is looked at again.
                _ => self.has_odd = true,
            }
        }
        Ok(None)
    }

    /// Compares what was listed out of order with its rows.
    async fn look_up(&mut self, listed: Vec<Listed>) -> Result<(), Trouble> {
        let mut some = Vec::new();
        for object in listed {
            match self.look.keys.path(&object.key) {
                Some(path) => some.push((path, object)),
                None => self.settle_key(&object.key).await?,
            }
        }
        if some.is_empty() {
            return Ok(());
        }
        let (manifest, folder) = (self.look.manifest.clone(), self.look.row.id);
        let paths: Vec<RelPath> = some.iter().map(|(path, _)| path.clone()).collect();
        let rows = Offload::Pool.run(move || manifest.entries(folder, &paths));
        for ((path, object), row) in some.into_iter().zip(rows.await?) {
            self.seen.insert(short(path.as_bytes()));
            if row.is_none_or(|row| !is_as_listed(&row, &object)) {
                self.settle(path, object.key).await?;
            }
        }
        Ok(())
    }

    /// Goes through the rows once more: names those with something to do, and looks at those that had to wait.
    async fn second(&mut self) -> Result<(), Trouble> {
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
                    let was_seen = || self.seen.contains(&short(row.path.as_bytes()));
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

    async fn settle_key(&mut self, key: &str) -> Result<(), Trouble> {
        if let Some(path) = self.look.keys.path(key) {
            return self.settle(path, key.to_owned()).await;
        }
        self.make_room().await?;
        let (look, key) = (self.look.clone(), key.to_owned());
        self.settling
            .spawn(async move { look.judge_key(&key).await });
        Ok(())
    }

    async fn settle(&mut self, path: RelPath, key: String) -> Result<(), Trouble> {
        self.make_room().await?;
        let look = self.look.clone();
        self.settling
            .spawn(async move { look.judge(&path, &key).await.map(drop) });
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
    match ended {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Ok(()),
        },
    }
}

/// Lists the prefix, one page ahead of who compares it.
async fn list(look: Arc<Look>, pages: mpsc::Sender<store::Result<Vec<Listed>>>) {
    let mut token = None;
    loop {
        // The semaphore is never closed.
        let permit = look.requests.acquire().await;
        let page = look.store.list(look.keys.prefix(), token).await;
        drop(permit);
        let (page, next) = match page {
            Ok(page) => (Ok(page.objects), page.next),
            Err(error) => (Err(error), None),
        };
        // Who does not take it any more has met trouble of its own.
        if pages.send(page).await.is_err() || next.is_none() {
            return;
        }
        token = next;
    }
}

/// Returns true for a key that is not the prefix and the path as they are: the order of such keys is not that of paths.
fn is_odd(prefix: &str, key: &str) -> bool {
    key.strip_prefix(prefix)
        .is_none_or(|rest| rest.contains('\u{201b}'))
}

fn is_as_listed(row: &Entry, listed: &Listed) -> bool {
    plan::certain(row)
        .is_some_and(|(_, old)| old.etag == listed.etag && old.stat.size == listed.size)
}
