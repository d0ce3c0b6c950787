//! `tidewatch demo`: a folder and an S3 endpoint inside the program, to try everything without a bucket.
//!
//! The folder is watched by the same code as `tidewatch watch`. Nothing is read from the user's AWS settings: the
//! endpoint's keys are made at each start and handed over in memory.

pub mod endpoint;
mod storage;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::base::clock::{Clock, Now};
use crate::base::offload::Offload;
use crate::base::price::Prices;
use crate::base::snapshot::{Happening, What};
use crate::base::units::show_bytes;
use crate::commands::Exit;
use crate::commands::demo::endpoint::Endpoint;
use crate::commands::folders::{Eyes, Shared, shown};
use crate::commands::signals::Signals;
use crate::commands::stores::Stores;
use crate::commands::watch::Service;
use crate::config::{Config, Folder, Notify, PathStyle, S3, SHUTDOWN_GRACE, Target, Upload};
use crate::report::out::Out;

/// The bucket's name.
const BUCKET: &str = "demo";
/// The region that requests are signed for.
const REGION: &str = "us-east-1";
/// The first file, so that there is something to see.
const SAMPLE: (&str, &[u8]) = ("hello.txt", b"hello, tide\n");
/// Happenings that wait to be printed.
const HAPPENINGS: usize = 1024;

/// What `demo` is asked to do.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Where the folder and the bucket are made.
    pub dir: PathBuf,
    /// After how long it ends by itself.
    pub duration: Option<Duration>,
}

/// The folders of a demo, absolute.
#[derive(Clone, Debug)]
struct Places {
    folder: PathBuf,
    bucket: PathBuf,
    state: PathBuf,
}

/// Watches a folder and serves the bucket that it goes to, until a signal comes or the time is up.
pub async fn demo(options: DemoOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let started = Clock::Real.now();
    let dir = options.dir.clone();
    let places = Offload::Pool.run(move || prepare(&dir)).await?;
    let endpoint = Endpoint::start(&places.bucket, BUCKET)
        .await
        .with_context(|| format!("serve a bucket in {}", shown(&places.bucket)))?;
    let config = config(&places, &endpoint);
    let stores = Stores::with_credentials(endpoint.access_key(), endpoint.secret_key());
    let shared = match Shared::open(&config, stores, Eyes::Open).await {
        Ok(shared) => Arc::new(shared),
        Err(exit) => return Ok(exit),
    };
    let mut out = Out::stdout();
    introduce(&mut out, &places, &endpoint, options.duration).context("write the results")?;

    let (sender, happenings) = mpsc::channel(HAPPENINGS);
    let mut service = Service::start(&config, &shared, Some(&sender));
    drop(sender);
    let deadline = options.duration.map(|duration| started.mono + duration);
    let (exit, shown) = tokio::join!(
        service.attend_until(&mut signals, deadline),
        show(&mut out, happenings, started),
    );
    shared.close().await;
    endpoint.stop().await;
    shown.context("write the results")?;
    let is_level = service.last().iter().all(|last| last.level);
    let level = if is_level { Exit::Level } else { Exit::Failed };
    Ok(exit.strongest(level))
}

/// Makes the folders, and the sample if there is nothing to see yet. Blocks.
fn prepare(dir: &Path) -> anyhow::Result<Places> {
    let make = |path: PathBuf| -> anyhow::Result<PathBuf> {
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", shown(&path)))?;
        path.canonicalize()
            .with_context(|| format!("find {}", shown(&path)))
    };
    let places = Places {
        folder: make(dir.join("folder"))?,
        bucket: make(dir.join("bucket"))?,
        state: make(dir.join("state"))?,
    };
    let write_sample = || -> io::Result<()> {
        if places.folder.read_dir()?.next().is_none() {
            let (name, text) = SAMPLE;
            std::fs::File::create_new(places.folder.join(name))?.write_all(text)?;
        }
        Ok(())
    };
    write_sample().with_context(|| format!("write into {}", shown(&places.folder)))?;
    Ok(places)
}

fn config(places: &Places, endpoint: &Endpoint) -> Config {
    let to = Target {
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
    };
    let folder = Folder {
        s3: S3 {
            region: Some(REGION.to_owned()),
            endpoint_url: Some(endpoint.url()),
            path_style: PathStyle::Always,
            ..S3::default()
        },
        ..Folder::new("demo".to_owned(), places.folder.clone(), to)
    };
    Config {
        prices: Prices::default(),
        state_dir: places.state.clone(),
        listen: None,
        shutdown_grace: SHUTDOWN_GRACE,
        upload: Upload::default(),
        take_over: false,
        notify: Notify::default(),
        folders: vec![folder],
    }
}

/// Says what there is to try.
fn introduce(
    out: &mut Out,
    places: &Places,
    endpoint: &Endpoint,
    duration: Option<Duration>,
) -> io::Result<()> {
    let (folder, bucket) = (shown(&places.folder), shown(&places.bucket));
    let (url, access, secret) = (endpoint.url(), endpoint.access_key(), endpoint.secret_key());
    let end = match duration {
        Some(duration) => format!("after {}", crate::base::units::show_duration(duration)),
        None => "with Ctrl-C".to_owned(),
    };
    out.line(format_args!(
        "Drop files into  {folder}\n\
         and find them in {bucket}\n\n\
         \x20 cp README.md {folder}/\n\
         \x20 ls -lR {bucket}\n\n\
         It is a bucket, s3://{BUCKET} at {url}, for every S3 tool:\n\n\
         \x20 AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret} AWS_REGION={REGION} \\\n\
         \x20   aws --endpoint-url {url} s3 ls --recursive s3://{BUCKET}/\n\n\
         This ends {end}.\n"
    ))
}

/// Prints a line for each file that goes level, or does not, until nobody tells any more.
async fn show(
    out: &mut Out,
    mut happenings: mpsc::Receiver<Happening>,
    started: Now,
) -> io::Result<()> {
    let mut shown = Ok(());
    while let Some(happening) = happenings.recv().await {
        let passed = Clock::Real
            .now()
            .mono
            .saturating_duration_since(started.mono);
        // The files go on if nobody can be told of them.
        shown = shown.and(out.line(line(&happening, passed)));
    }
    shown
}

fn line(happening: &Happening, passed: Duration) -> String {
    let Happening {
        what, path, bytes, ..
    } = happening;
    let seconds = passed.as_secs_f64();
    let bytes = show_bytes(*bytes);
    let key = happening.key.as_deref().unwrap_or_default();
    let why = happening.error.as_deref().unwrap_or_default();
    let rest = match what {
        What::Uploaded => format!("uploaded  {bytes} → bucket/{key}"),
        What::Copied => format!("copied inside the bucket  {bytes} → bucket/{key}"),
        What::Deleted => format!("deleted from bucket/{key}"),
        What::Held => "held: a person decides".to_owned(),
        What::Noted | What::Adopted => "level already".to_owned(),
        What::Failed => format!("failed: {why}"),
        What::Skipped => format!("skipped: {why}"),
    };
    format!("+{seconds:5.1}s  {path}  {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::path::RelPath;

    #[test]
    fn a_line_says_when_what_and_where() {
        let happening = Happening {
            what: What::Uploaded,
            folder: "demo".into(),
            path: RelPath::new(b"hello.txt").expect("a path"),
            key: Some("hello.txt".into()),
            bytes: 12,
            error: None,
        };
        assert_eq!(
            line(&happening, Duration::from_millis(200)),
            "+  0.2s  hello.txt  uploaded  12 B → bucket/hello.txt"
        );
    }
}
