//! Telling somebody when something is wrong, and a heartbeat while nothing is: what `[notify]` of the config asks for.
//!
//! Looks at the board, never at the folders' loops, and keeps nothing waiting: what is to be told goes through a queue with
//! a bound, beyond which it is dropped and the log says so. A message is tried `PAUSES` and once more, each time for a
//! bounded time, and then given up; failures are one WARN an interval. Addresses are never logged.
//!
//! What this does not protect against: an agent that is dead or was never started. That is what the heartbeat is for: it
//! stays away, and whoever waits for it tells.

pub mod judge;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::base::clock::{Clock, rfc3339};
use crate::base::offload::Offload;
use crate::base::path::escaped;
use crate::commands::alarm::judge::{Event, Judge, Kind, Seen, is_well};
use crate::commands::bill::Biller;
use crate::commands::board::Board;
use crate::commands::settings;
use crate::config::Notify;
use crate::report::drill_file;
use crate::store::s3::Web;

/// How long what happens at once is gathered, so that a burst is one message.
const GATHER: Duration = Duration::from_secs(2);
/// How often it is looked also when nothing is new: for drills, and for what could not be told yet.
const LOOK: Duration = Duration::from_secs(60);
/// Messages that wait to be delivered.
const WAITING: usize = 64;
/// The pauses between the attempts to deliver one message.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
];
/// How long the command may run.
const RUNS: Duration = Duration::from_secs(30);
/// What is read of what it complains of, bytes.
const COMPLAINT_MOST: u64 = 2048;
/// The shortest time between two warnings that telling does not work.
const WARN_EVERY: Duration = Duration::from_secs(10 * 60);
/// Folders that one message names; of the others it says how many there are.
const NAMED: usize = 20;

/// What is sent: the JSON contract of commands and webhooks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Message {
    event: Kind,
    /// The folders' names, with commas between them.
    folder: String,
    /// For people, a line for each folder.
    text: String,
    /// This machine.
    host: String,
    /// RFC 3339.
    at: String,
    version: &'static str,
}

/// Tells whatever is worth telling of the folders of `board`, and lets the heart beat, for as long as it is polled.
pub async fn keep_up(notify: Notify, board: Board, state_dir: PathBuf, bill: Arc<Biller>) {
    let has_web = notify.webhook.is_some() || notify.heartbeat.is_some();
    let web = if has_web {
        match Web::new(notify.ca_bundle.clone()).await {
            Ok(web) => Some(web),
            Err(error) => {
                tracing::error!("webhook and heartbeat are off: {error}");
                None
            }
        }
    } else {
        None
    };
    let notify = Arc::new(notify);
    let (queue, waiting) = mpsc::channel(WAITING);
    let watching = async {
        if !notify.command.is_empty() || notify.webhook.is_some() {
            look(&board, state_dir, &bill, queue).await;
        }
    };
    tokio::join!(
        watching,
        deliver(&notify, web.as_ref(), waiting),
        beat(&notify, web.as_ref(), &board)
    );
}

/// Looks at the board whenever something is new on it.
async fn look(board: &Board, state_dir: PathBuf, bill: &Biller, queue: mpsc::Sender<Message>) {
    let (mut judge, mut news) = (Judge::default(), board.news());
    loop {
        // Whether it is new or time has passed, the same is looked at.
        let _ = tokio::time::timeout(LOOK, news.changed()).await;
        tokio::time::sleep(GATHER).await;
        news.mark_unchanged();
        let dir = state_dir.clone();
        let drills = Offload::Pool.run(move || drill_file::read(&dir)).await;
        let now = Clock::Real.now();
        let seen = Seen {
            folders: &board.snapshots(),
            drills: &drills,
            over: bill.over(),
        };
        let events = judge.look(&seen, now);
        for message in messages(events, now.wall_ns) {
            tracing::debug!(event = message.event.word(), "telling: {}", message.text);
            if queue.try_send(message).is_err() {
                tracing::warn!("too much is to be told at once: a message was dropped");
            }
        }
    }
}

/// Makes one message of all events of a kind.
fn messages(events: Vec<Event>, now_ns: i64) -> Vec<Message> {
    let mut kinds: BTreeMap<Kind, Vec<Event>> = BTreeMap::new();
    for event in events {
        kinds.entry(event.kind).or_default().push(event);
    }
    let host = rustix::system::uname();
    let host = escaped(host.nodename().to_bytes());
    let message = |(kind, events): (Kind, Vec<Event>)| {
        let mut lines: Vec<_> = events
            .iter()
            .take(NAMED)
            .map(|event| {
                format!("{} {}", event.folder, event.text)
                    .trim_start()
                    .to_owned()
            })
            .collect();
        let mut names: Vec<_> = events
            .iter()
            .take(NAMED)
            .map(|event| event.folder.clone())
            .collect();
        if events.len() > NAMED {
            let others = format!("{} others", events.len() - NAMED);
            lines.push(others.clone());
            names.push(others);
        }
        Message {
            event: kind,
            folder: names.join(", "),
            text: lines.join("\n"),
            host: host.clone(),
            at: rfc3339(now_ns),
            version: env!("CARGO_PKG_VERSION"),
        }
    };
    kinds.into_iter().map(message).collect()
}

/// Delivers one message after the other, to everybody who is to be told.
async fn deliver(notify: &Notify, web: Option<&Web>, mut waiting: mpsc::Receiver<Message>) {
    let (mut by_command, mut by_webhook) = (Complaints::new(), Complaints::new());
    while let Some(message) = waiting.recv().await {
        // Plain fields only.
        let json = serde_json::to_string(&message).unwrap_or_default();
        let command = async {
            if !notify.command.is_empty() {
                let told = again(|| run(&notify.command, &message, &json)).await;
                by_command.note("notify.command", told);
            }
        };
        let webhook = async {
            if let (Some(url), Some(web)) = (&notify.webhook, web) {
                let told = again(|| web.send(url, Some(json.clone()))).await;
                by_webhook.note("notify.webhook", told);
            }
        };
        tokio::join!(command, webhook);
    }
}

/// Asks for the heartbeat's address again and again while all is well.
async fn beat(notify: &Notify, web: Option<&Web>, board: &Board) {
    let (Some(url), Some(web)) = (&notify.heartbeat, web) else {
        return;
    };
    let (mut news, mut complaints) = (board.news(), Complaints::new());
    loop {
        if is_well(&board.snapshots(), board.stuck().as_deref()) {
            let mut told = web.send(url, None).await;
            if told.is_err() {
                // One lost packet is not a dead agent.
                tokio::time::sleep(PAUSES[0].min(notify.heartbeat_every)).await;
                told = web.send(url, None).await;
            }
            complaints.note("notify.heartbeat", told);
            tokio::time::sleep(notify.heartbeat_every).await;
        } else {
            let _ = tokio::time::timeout(LOOK, news.changed()).await;
        }
    }
}

/// Tries until it works or nothing more is to be tried.
async fn again<F: Future<Output = Result<(), String>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<(), String> {
    for pause in PAUSES {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(why) => tracing::debug!("could not tell, it is tried again: {why}"),
        }
        tokio::time::sleep(pause).await;
    }
    attempt().await
}

/// Runs the command for one message: JSON on its standard input, the main words in its environment.
async fn run(command: &[String], message: &Message, json: &str) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let mut child = Command::new(program);
    for key in settings::KEYS {
        child.env_remove(key);
    }
    let mut child = child
        .args(arguments)
        .env("TIDEWATCH_EVENT", message.event.word())
        .env("TIDEWATCH_FOLDER", &message.folder)
        .env("TIDEWATCH_TEXT", &message.text)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Of its own, so that what it has started can be ended with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program:?} cannot be run: {error}"))?;
    let group = child.id();
    if let Ok(ended) = tokio::time::timeout(RUNS, talk(&mut child, json)).await {
        return ended;
    }
    if let Some(group) = group.and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may have ended just now.
        let _ = kill_process_group(group, Signal::KILL);
    }
    Err(format!("it was ended after {} s", RUNS.as_secs()))
}

async fn talk(child: &mut Child, json: &str) -> Result<(), String> {
    if let Some(mut input) = child.stdin.take() {
        // Who does not want to read it need not.
        let _ = input.write_all(json.as_bytes()).await;
        let _ = input.write_all(b"\n").await;
    }
    let mut said = Vec::new();
    if let Some(errors) = child.stderr.take() {
        let _ = errors.take(COMPLAINT_MOST).read_to_end(&mut said).await;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    let said = escaped(said.trim_ascii());
    Err(format!("it ended with {status}: {said}"))
}

/// Says that telling does not work, once an interval.
struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    fn new() -> Self {
        Self { last: None }
    }

    fn note(&mut self, by: &str, told: Result<(), String>) {
        let Err(why) = told else {
            return;
        };
        let now = Clock::Real.now().mono;
        if self.last.is_none_or(|last| now >= last + WARN_EVERY) {
            self.last = Some(now);
            tracing::warn!("could not tell anybody by {by}: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, folder: &str) -> Event {
        Event {
            kind,
            folder: folder.to_owned(),
            text: "is so".to_owned(),
        }
    }

    #[test]
    fn a_burst_is_one_message_of_each_kind() {
        let mut events: Vec<_> = (0..25)
            .map(|number| event(Kind::OutageBegan, &format!("f{number}")))
            .collect();
        events.push(event(Kind::Held, "a"));
        let messages = messages(events, 0);
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].event, Kind::OutageBegan);
        assert!(messages[0].folder.ends_with("f19, 5 others"));
        assert_eq!(messages[0].text.lines().count(), NAMED + 1);
        assert_eq!((&*messages[1].folder, &*messages[1].text), ("a", "a is so"));
        let json = serde_json::to_string(&messages[1]).unwrap();
        assert!(json.starts_with(r#"{"event":"held","folder":"a","text":"a is so","host":""#));
    }

    #[tokio::test]
    async fn a_command_gets_the_message_and_its_complaint_is_told() {
        let message = messages(vec![event(Kind::Late, "a")], 0).remove(0);
        let words = |text: &str| -> Vec<String> { shlex::split(text).unwrap() };
        let fine = words(
            "sh -c 'read line; test \"$TIDEWATCH_EVENT:$TIDEWATCH_FOLDER:$line\" = late:a:json'",
        );
        assert_eq!(run(&fine, &message, "json").await, Ok(()));
        let fails = words("sh -c 'echo oh no >&2; exit 3'");
        let why = run(&fails, &message, "").await.unwrap_err();
        assert!(why.contains('3') && why.ends_with("oh no"), "{why}");
        assert!(run(&words("/nowhere/at/all"), &message, "").await.is_err());
    }
}
