//! Another agent that wants the same prefix: on the same tree, with a state and a line of its own. It comes while the other
//! one runs, and goes as a crash goes, or in an orderly way.

use std::sync::Arc;
use std::time::Duration;

use tidewatch::agent::{self, Folder, Mode, Reason};
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::offload::Offload;
use tidewatch::base::snapshot::FolderSnapshot;
use tidewatch::manifest::Manifest;
use tidewatch::store::key::KeyMap;
use tidewatch::sync::lease::{Manners, Owner};
use tidewatch::sync::limits::Limits;
use tidewatch::tree::filter::Filter;
use tidewatch::tree::hints;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::sim::oracle::Oracle;
use crate::sim::world::{World, odds, set_time, state, witnessed};
use crate::support::faulty::Faulty;
use crate::support::mem_store::MemStore;

/// Its state and its line.
pub struct Rival {
    manifest: Manifest,
    line: Faulty<MemStore>,
    starts: u32,
}

/// When it comes, for how long, and how it goes.
pub struct Visit {
    folder: Folder,
    comes: Duration,
    stays: Duration,
    is_killed: bool,
}

impl Rival {
    pub fn new(bucket: &MemStore, random: &mut fastrand::Rng) -> Self {
        let seed = random.u64(..);
        Self {
            manifest: state(1000),
            line: Faulty::new(bucket.clone(), seed, odds(random)),
            starts: 0,
        }
    }

    pub fn line(&self) -> &Faulty<MemStore> {
        &self.line
    }

    /// Has what it asks for judged as what everybody does.
    pub fn watch(&self, oracle: &Oracle) {
        let oracle = Oracle {
            manifest: self.manifest.clone(),
            store: self.line.clone(),
            ..oracle.clone()
        };
        oracle.watch(&self.line);
    }
}

impl World {
    /// Draws whether the other agent comes while this one runs for so long.
    pub(in crate::sim::world) fn visit(&mut self, clock: Clock, lasts: Duration) -> Option<Visit> {
        let seed = self.random.u64(..);
        let rival = self.rival.as_mut()?;
        set_time(&rival.line, &self.bucket, clock);
        if self.random.u8(..3) == 0 {
            return None;
        }
        rival.starts += 1;
        let owner = Owner {
            agent: rival.manifest.agent_id().to_owned(),
            epoch: format!("rival-{}", rival.starts),
            host: "rival".to_owned(),
            pid: rival.starts,
            manners: Manners::Wait,
        };
        let line = Arc::new(rival.line.clone());
        let store = witnessed(line, &owner, &self.bucket, &self.trespasses);
        // Nobody tells it anything: it scans.
        let (_, hints) = hints(1);
        let folder = Folder {
            name: "rival".into(),
            path: "/sim".into(),
            to: "s3://bucket/p/".into(),
            row: rival.manifest.folders().expect("readable").remove(0),
            tree: Arc::new(self.tree.clone()),
            store,
            manifest: rival.manifest.clone(),
            filter: Arc::new(Filter::new(&[], &[], true).expect("no rules")),
            owner: Some(owner),
            keys: KeyMap::new("p/"),
            labels: Arc::default(),
            limits: Arc::new(Limits::new(Some(4), 128 << 20)),
            buffers: Pool::new(1 << 20),
            clock,
            offload: Offload::Inline,
            random: fastrand::Rng::with_seed(seed),
            hints,
            settings: self.settings,
            control: None,
            mode: Mode::Forever,
            snapshots: watch::channel(FolderSnapshot::default()).0,
            happenings: None,
        };
        let comes = lasts.mul_f64(self.random.f64());
        let stays = lasts.mul_f64(self.random.f64() * 1.2);
        let is_killed = self.random.bool();
        self.tally.rivals += 1;
        self.say(&format!(
            "another agent comes after {comes:?} for {stays:?}"
        ));
        Some(Visit {
            folder,
            comes,
            stays,
            is_killed,
        })
    }
}

/// Lets it come and go; never ends.
pub async fn visit(visit: Option<Visit>) {
    if let Some(Visit {
        folder,
        comes,
        stays,
        is_killed,
    }) = visit
    {
        tokio::time::sleep(comes).await;
        let stop = CancellationToken::new();
        let agent = agent::run(folder, stop.clone());
        tokio::pin!(agent);
        tokio::select! {
            biased;
            ended = &mut agent => panic!("the other agent ended by itself: {:?}", ended.reason),
            () = tokio::time::sleep(stays) => {}
        }
        if !is_killed {
            stop.cancel();
            let reason = agent.await.reason;
            assert!(matches!(reason, Reason::Stopped(_)), "{reason:?}");
        }
    }
    std::future::pending::<()>().await;
}
