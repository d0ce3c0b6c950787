//! `verify --repair`: sends again what the bucket has lost, or holds wrongly.
//!
//! Never over a file that is not the one that was stored: each is read first, and only one with the very content that is on
//! record is sent. Then its row is believed no more ([`Change::Mend`]), and the agent sends it as it sends any other file:
//! what somebody else has put under the key is on record as first contact records it, and is set aside into trash before the
//! key is written. The agent that runs is told; where none runs the rows are written here, and a folder that the config
//! names is synced at once. What nobody here knows is left alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::audit::compare::{Sight as _, Verdict, settle};
use crate::agent::{Mode, Reason};
use crate::base::digest::Sha256;
use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::commands::Exit;
use crate::commands::control::{DecideError, ask_to_mend};
use crate::commands::folders::{Eyes, Left, Shared, Start, first_snapshot};
use crate::commands::stores::Stores;
use crate::commands::verify::compare::joined;
use crate::commands::verify::contents::{Back, Disk, File, RANGES, back};
use crate::commands::verify::look::{CLOCK, Look, MENDS_MOST, REQUESTS, Trouble};
use crate::commands::verify::tell::Kind;
use crate::config::{self, Config};
use crate::manifest::{self, Change, Entry, Manifest, Mend, OpenError, Remote, State};
use crate::report::out::note;
use crate::sync::plan;

/// How long a folder is synced without any success.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How often a running agent is looked at until it has sent what it was told to.
const BETWEEN: Duration = Duration::from_millis(250);
/// How often in a row without one more file sent: for a minute.
const PATIENCE: u32 = 240;
/// Changes in one commit.
const COMMIT: usize = 1000;

/// A row whose object is not what the row says.
#[derive(Clone, Debug)]
pub struct Broken {
    kind: Kind,
    path: RelPath,
    sha256: Sha256,
    etag: String,
    there: Option<Remote>,
    /// Its file is gone: there is nothing to send.
    is_kept: bool,
}

impl Broken {
    /// Takes what is needed of a row; `None` if it claims nothing.
    pub fn of(kind: Kind, row: &Entry, there: Option<Remote>) -> Option<Self> {
        let content = row.stored.as_ref()?;
        Some(Self {
            kind,
            path: row.path.clone(),
            sha256: content.sha256,
            etag: content.etag.clone(),
            there,
            is_kept: row.state == State::Kept,
        })
    }

    fn mend(&self) -> Mend {
        Mend {
            path: self.path.clone(),
            sha256: self.sha256,
            etag: self.etag.clone(),
            there: self.there.clone(),
            failure: None,
        }
    }
}

/// Where a folder's repair happens.
pub struct Place<'a> {
    /// The state folder.
    pub dir: &'a Path,
    /// The folder on the disk, or why it cannot be read.
    pub disk: Result<Arc<Disk>, String>,
    /// The folder in the config, if that names it.
    pub config: Option<(&'a Config, &'a config::Folder)>,
}

/// Mends what was found, and says of each whether it is; the exit is that of trouble beyond single files.
pub async fn mend(
    look: &Arc<Look>,
    place: &Place<'_>,
    stop: &CancellationToken,
) -> Result<Exit, Trouble> {
    let (broken, beyond) = look.take_broken();
    if beyond > 0 {
        note(format_args!(
            "tidewatch: {}: {MENDS_MOST} files are mended at once; run it again for {beyond} more",
            look.row.name
        ));
    }
    let able = able(look, place, broken).await?;
    if able.is_empty() || stop.is_cancelled() {
        return Ok(Exit::Level);
    }
    let mends: Vec<Mend> = able.iter().map(Broken::mend).collect();
    let (dir, row) = (place.dir.to_path_buf(), look.row.clone());
    let asking = move || {
        if manifest::is_locked(&dir).unwrap_or(true) {
            (ask_to_mend(&dir, &row, &mends), mends)
        } else {
            (None, mends)
        }
    };
    let (told, mends) = Offload::Pool.run(asking).await;
    let done = match told {
        Some(Ok(_)) => sent_by_the_agent(look, &able, stop).await.map(|()| None),
        Some(Err(error)) => {
            note(format_args!("tidewatch: could not {error}"));
            return Ok(match error {
                DecideError::Taken(_) => Exit::Taken,
                DecideError::Refused(_) => Exit::Failed,
            });
        }
        None => match place.config {
            Some((config, folder)) => return synced(look, config, folder, mends, able, stop).await,
            None => marked(look, place.dir, mends).await.map(Some),
        },
    }?;
    match done {
        Some(Exit::Level) => {
            for broken in &able {
                look.say(
                    Kind::Marked,
                    &broken.path,
                    "the next `tidewatch sync` of the folder sends it again",
                );
            }
            Ok(Exit::Level)
        }
        Some(exit) => Ok(exit),
        None => confirm(look, able).await.map(|()| Exit::Level),
    }
}

/// Reads the files again; what cannot be sent is named, and left out.
async fn able(
    look: &Arc<Look>,
    place: &Place<'_>,
    broken: Vec<Broken>,
) -> Result<Vec<Broken>, Trouble> {
    let mut able = Vec::new();
    for broken in broken {
        if let Some(why) = unable(look, place, &broken).await? {
            look.say(Kind::NotMended, &broken.path, &why);
        } else {
            able.push(broken);
        }
    }
    Ok(able)
}

/// Returns why a file cannot be sent again.
async fn unable(
    look: &Arc<Look>,
    place: &Place<'_>,
    broken: &Broken,
) -> Result<Option<String>, Trouble> {
    if broken.is_kept {
        return Ok(Some(
            "its file is gone: there is nothing to send".to_owned(),
        ));
    }
    let disk = match &place.disk {
        Ok(disk) => disk.clone(),
        Err(why) => return Ok(Some(format!("the folder cannot be read: {why}"))),
    };
    let path = broken.path.clone();
    let row = look.entry(&path).await?;
    let checked = move || {
        let row = row?;
        let (_, content) = plan::certain(&row)?;
        Some(disk.check(&row, content))
    };
    Ok(match Offload::Pool.run(checked).await {
        // A changed file is sent for that reason; one that was only touched has still to be believed no more.
        Some(File::Good | File::Changed) => None,
        Some(File::Unsure(why)) => Some(format!("its file cannot be believed now: {why}")),
        Some(File::Rotten) => Some("the file here has other bytes too: restore it".to_owned()),
        Some(File::Gone) => Some("its file is gone: there is nothing to send".to_owned()),
        Some(File::Failed(why)) => Some(format!("its file cannot be read: {why}")),
        None => Some("it is being sent already".to_owned()),
    })
}

/// Waits until a running agent has sent what it was told to, or has made no headway for a minute.
async fn sent_by_the_agent(
    look: &Arc<Look>,
    able: &[Broken],
    stop: &CancellationToken,
) -> Result<(), Trouble> {
    let mut left: Vec<RelPath> = able.iter().map(|broken| broken.path.clone()).collect();
    let mut looks = 0;
    while !left.is_empty() && looks < PATIENCE && !stop.is_cancelled() {
        let (manifest, folder) = (look.manifest.clone(), look.row.id);
        let before = left.len();
        let read = move || {
            let rows = manifest.entries(folder, &left)?;
            let is_done = |row: &Option<Entry>| {
                row.as_ref()
                    .is_none_or(|row| plan::certain(row).is_some() || row.failure.is_some())
            };
            let waiting = left.into_iter().zip(rows);
            let waiting = waiting.filter(|(_, row)| !is_done(row));
            Ok::<_, manifest::Error>(waiting.map(|(path, _)| path).collect())
        };
        left = Offload::Pool.run(read).await?;
        looks = if left.len() < before { 0 } else { looks + 1 };
        if !left.is_empty() {
            tokio::time::sleep(BETWEEN).await;
        }
    }
    Ok(())
}

/// Writes into the rows that they are believed no more.
fn commit(manifest: &Manifest, look: &Look, mends: Vec<Mend>) -> Result<(), manifest::Error> {
    let mut changes = mends.into_iter().map(|mend| Change::Mend(Box::new(mend)));
    loop {
        let some: Vec<Change> = changes.by_ref().take(COMMIT).collect();
        if some.is_empty() {
            return Ok(());
        }
        manifest.commit(look.row.id, &some)?;
    }
}

/// Marks the rows of a folder that no config names: what a command was told about it is not known here.
async fn marked(look: &Arc<Look>, dir: &Path, mends: Vec<Mend>) -> Result<Exit, Trouble> {
    let (look, dir) = (look.clone(), dir.to_path_buf());
    let marking = move || {
        let (manifest, _) = match Manifest::open(&dir, CLOCK.now().wall_ns) {
            Ok(opened) => opened,
            Err(error) => {
                note(format_args!("tidewatch: could not {error}"));
                return Ok(match error {
                    OpenError::Locked { .. } => Exit::Taken,
                    _ => Exit::Failed,
                });
            }
        };
        let committed = commit(&manifest, &look, mends);
        manifest.close();
        committed.map(|()| Exit::Level)
    };
    Ok(Offload::Pool.run(marking).await?)
}

/// Marks the rows of a folder of the config, and syncs it.
async fn synced(
    look: &Arc<Look>,
    config: &Config,
    folder: &config::Folder,
    mends: Vec<Mend>,
    able: Vec<Broken>,
    stop: &CancellationToken,
) -> Result<Exit, Trouble> {
    let shared = match Shared::open(config, Stores::default(), Eyes::Closed).await {
        Ok(shared) => shared,
        Err(exit) => return Ok(exit),
    };
    let (manifest, marks) = (shared.manifest.clone(), look.clone());
    let marking = move || commit(&manifest, &marks, mends);
    let marked = Offload::Pool.run(marking).await;
    if let Err(error) = marked {
        shared.close().await;
        return Err(error.into());
    }
    let (snapshots, _) = watch::channel(first_snapshot(folder));
    let start = Start {
        folder: folder.clone(),
        mode: Mode::Once { timeout: TIMEOUT },
        eyes: Eyes::Closed,
        scan_settle: Duration::ZERO,
        snapshots,
        happenings: None,
        control: None,
        retry_failed: false,
    };
    let left = Box::pin(shared.drive(start, stop.clone())).await;
    shared.close().await;
    let exit = exit_of(look, &left);
    if exit == Exit::Level {
        confirm(look, able).await?;
    }
    Ok(exit)
}

/// Says why a sync did not come to its end.
fn exit_of(look: &Look, left: &Left) -> Exit {
    let (why, exit) = match left {
        Left::Stopped => return Exit::Failed,
        Left::NoStore(error) => (error.to_string(), Exit::Unreachable),
        Left::Unasked => (
            crate::commands::unusable::UNASKED.to_owned(),
            Exit::Unreachable,
        ),
        Left::Unable(why) => ((*why).to_owned(), Exit::Usage),
        Left::Broken(why) => (why.clone(), Exit::Failed),
        Left::Ended(ended) => match &ended.reason {
            // Single files that are not level are the next look's to name.
            Reason::Finished => return Exit::Level,
            Reason::Stopped(_) => return Exit::Failed,
            Reason::Store(why) => (why.clone(), Exit::Unreachable),
            Reason::Taken(why) => (why.clone(), Exit::Taken),
            Reason::Away(why) | Reason::Manifest(why) => (why.clone(), Exit::Failed),
        },
    };
    note(format_args!(
        "tidewatch: could not send again what {} has lost: {why}",
        look.row.name
    ));
    exit
}

/// Looks once more at what was sent again; objects that were damaged are read.
async fn confirm(look: &Arc<Look>, able: Vec<Broken>) -> Result<(), Trouble> {
    let ranges = Arc::new(Semaphore::new(RANGES));
    let mut looks = JoinSet::new();
    for broken in able {
        while looks.len() >= REQUESTS {
            joined(looks.join_next().await)?;
        }
        let (look, ranges) = (look.clone(), ranges.clone());
        looks.spawn(async move {
            match not_mended(&look, &ranges, &broken).await? {
                None => look.say(
                    Kind::Mended,
                    &broken.path,
                    "it was sent again, and is there",
                ),
                Some(why) => look.say(Kind::NotMended, &broken.path, &why),
            }
            Ok(())
        });
    }
    while let Some(ended) = looks.join_next().await {
        joined(Some(ended))?;
    }
    Ok(())
}

/// Returns why an object is still not what it has to be.
async fn not_mended(
    look: &Arc<Look>,
    ranges: &Arc<Semaphore>,
    broken: &Broken,
) -> Result<Option<String>, Trouble> {
    let row = look.entry(&broken.path).await?;
    let Some(row) = row else {
        return Ok(Some("its file is gone".to_owned()));
    };
    let (Some((_, content)), Ok(key)) = (plan::certain(&row), look.keys.key(&broken.path)) else {
        let failure = row.failure.as_ref();
        let why = failure.map_or("it has not been sent yet", |failure| failure.error.as_str());
        return Ok(Some(why.to_owned()));
    };
    if broken.kind == Kind::Damaged {
        return Ok(match back(look, ranges, &key, content).await {
            Back::Whole(sha256) if sha256 == content.sha256 => None,
            Back::Whole(_) => Some("the object is damaged again".to_owned()),
            Back::Other => Some("the object is another one now".to_owned()),
            Back::Failed(error) => Some(error.to_string()),
        });
    }
    Ok(match settle(&**look, &broken.path, &key).await? {
        Verdict::Same => None,
        Verdict::Missing(_) => Some("the bucket still has no such object".to_owned()),
        Verdict::Changed(..) => Some("the object is still another one".to_owned()),
        Verdict::Extra | Verdict::Waits => Some("it is changing".to_owned()),
        Verdict::Unknown => Some("it could not be looked at".to_owned()),
    })
}
