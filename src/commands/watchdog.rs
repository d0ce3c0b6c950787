//! Whether a process that stays gets on: found out again and again, folder by folder.
//!
//! - The loop answers when it is asked through the channel by which people ask it.
//! - The watcher tells: a file in the state folder is opened, and the event of that comes back through the folder's own
//!   watcher, its queue and its loop. A folder that is polled has no such watcher, and its loop stands for it.
//! - The store has answered what was asked about the lease by when it had to. An error is an answer: an outage that is known
//!   is tried again, at its own pauses, and nothing stands still. A request that never ends is none.
//!
//! Never concludes anything from a process that runs, a timer that fires or a status that is written.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::{Answer, Control, Request};
use crate::base::clock::Clock;
use crate::base::offload::joined;
use crate::commands::board::{Board, Seat};

/// How often it is found out where no watchdog says how often.
pub const USUAL: Duration = Duration::from_secs(60);
/// The longest that a folder may be on its start without anything being known of why: its watcher, its rows, and what its
/// bucket can do, thirty requests that may each be repeated.
const STARTING: Duration = Duration::from_secs(600);

/// Finds it out every `every`, tells the board, and hands it to whoever feeds the watchdog; until it is dropped.
pub async fn keep_judging(board: Board, every: Duration, verdicts: mpsc::Sender<Option<String>>) {
    loop {
        tokio::time::sleep(every).await;
        let stuck = judge(&board, every / 2).await;
        board.judged(stuck.clone());
        if verdicts.send(stuck).await.is_err() {
            return;
        }
    }
}

/// Returns what does not get on, of all folders; each has `patience` to answer.
pub async fn judge(board: &Board, patience: Duration) -> Option<String> {
    let mut looks = JoinSet::new();
    for (place, seat) in board.seats().into_iter().enumerate() {
        looks.spawn(async move {
            (
                place,
                look(&seat, patience).await.map(|why| (seat.name, why)),
            )
        });
    }
    let mut stuck = Vec::new();
    while let Some(looked) = looks.join_next().await {
        if let Some((place, Some((name, why)))) = joined(looked) {
            stuck.push((place, format!("`{name}`: {why}")));
        }
    }
    stuck.sort();
    let all: Vec<String> = stuck.into_iter().map(|(_, why)| why).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

async fn look(seat: &Seat, patience: Duration) -> Option<String> {
    let now = Clock::Real.now().mono;
    if let Some(by) = seat.leaves_by {
        return (now > by).then(|| "it was told to end, and does not".to_owned());
    }
    let (runs, is_known) = {
        let snapshot = seat.snapshots.borrow();
        (snapshot.runs, snapshot.outage.is_some())
    };
    if !runs {
        let is_late = !is_known && now > seat.since + STARTING;
        return is_late.then(|| "its start does not come to an end".to_owned());
    }
    let by = now + patience;
    let (answers, tells) =
        tokio::join!(ask(seat, Request::Ping, by), ask(seat, Request::Pulse, by));
    let mut missing = Vec::new();
    match (answers, tells) {
        // What becomes of a loop that ends is another's matter.
        (Heard::Ended, _) | (_, Heard::Ended) => return None,
        (Heard::Nothing, _) => missing.push("its loop does not answer".to_owned()),
        (_, Heard::Nothing) => missing.push("its watcher does not tell of changes".to_owned()),
        (_, Heard::Answer(Err(why))) => missing.push(why),
        (Heard::Answer(_), Heard::Answer(Ok(_))) => {}
    }
    let due = seat.snapshots.borrow().lease_due;
    if due.is_some_and(|due| Clock::Real.now().mono > due) {
        let why = "the lease was not renewed in time, and nothing is known of why";
        missing.push(why.to_owned());
    }
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// What came of a question.
enum Heard {
    Answer(Answer),
    /// The loop has ended, or is about to.
    Ended,
    /// No answer in time.
    Nothing,
}

async fn ask(seat: &Seat, request: Request, by: Instant) -> Heard {
    let (answer, told) = oneshot::channel();
    let asking = async {
        let asked = Control { request, answer };
        if seat.asks.send(asked).await.is_err() {
            return Heard::Ended;
        }
        told.await.map_or(Heard::Ended, Heard::Answer)
    };
    let heard = tokio::time::timeout_at(by, asking).await;
    heard.unwrap_or(Heard::Nothing)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::sync::watch;

    use super::*;
    use crate::agent::Said;
    use crate::base::snapshot::FolderSnapshot;
    use crate::config::{Folder, Target};

    const SECOND: Duration = Duration::from_secs(1);

    fn seated(
        board: &Board,
        name: &str,
    ) -> (watch::Sender<FolderSnapshot>, mpsc::Receiver<Control>) {
        let to = Target {
            bucket: "b".to_owned(),
            prefix: format!("{name}/"),
        };
        let folder = Folder::new(name.to_owned(), PathBuf::from("/srv"), to);
        let (publish, asked) = board.seat(&folder);
        publish.send_modify(|snapshot| snapshot.runs = true);
        (publish, asked)
    }

    /// A loop that answers `pulse` when its watcher is asked to tell, or nothing.
    async fn answer(asked: &mut mpsc::Receiver<Control>, pulse: Option<Result<u64, String>>) {
        let mut kept = Vec::new();
        while let Some(Control { request, answer }) = asked.recv().await {
            match (&request, &pulse) {
                (Request::Ping, _) => drop(answer.send(Ok(Said::Count(0)))),
                (Request::Pulse, Some(pulse)) => drop(answer.send(pulse.clone().map(Said::Count))),
                // An answer that never comes, and not a loop that has gone.
                _ => kept.push(answer),
            }
        }
    }

    async fn judged(
        board: &Board,
        asked: &mut mpsc::Receiver<Control>,
        pulse: Option<Result<u64, String>>,
    ) -> Option<String> {
        tokio::select! {
            stuck = judge(board, SECOND) => stuck,
            () = answer(asked, pulse) => unreachable!("the board holds the other end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_answer_is_stuck() {
        let board = Board::default();
        let (_publish, mut asked) = seated(&board, "a");
        assert_eq!(judged(&board, &mut asked, Some(Ok(1))).await, None);
        // Nobody takes what is asked, however often; a full channel is no excuse.
        for _ in 0..4 {
            let stuck = judge(&board, SECOND).await;
            assert_eq!(stuck.as_deref(), Some("`a`: its loop does not answer"));
        }
        drop(asked);
        assert_eq!(judge(&board, SECOND).await, None, "it has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_is_deaf_is_stuck() {
        let board = Board::default();
        let (_publish, mut asked) = seated(&board, "a");
        let stuck = judged(&board, &mut asked, None).await;
        let deaf = "`a`: its watcher does not tell of changes";
        assert_eq!(stuck.as_deref(), Some(deaf));
        let why = Some(Err("could not open".to_owned()));
        let stuck = judged(&board, &mut asked, why).await;
        assert_eq!(stuck.as_deref(), Some("`a`: could not open"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_nobody_answers_for_is_stuck_and_a_known_outage_is_not() {
        let board = Board::default();
        let (publish, mut asked) = seated(&board, "a");
        let due = Clock::Real.now().mono + 10 * SECOND;
        publish.send_modify(|snapshot| snapshot.lease_due = Some(due));
        assert_eq!(judged(&board, &mut asked, Some(Ok(1))).await, None);
        tokio::time::sleep(11 * SECOND).await;
        let stuck = judged(&board, &mut asked, Some(Ok(1))).await;
        assert!(stuck.is_some_and(|why| why.contains("the lease was not renewed")));
        // The store has answered, with an error, and is asked again.
        publish.send_modify(|snapshot| {
            snapshot.outage = Some((1, "gone".to_owned()));
            snapshot.lease_due = Some(due + 60 * SECOND);
        });
        assert_eq!(judged(&board, &mut asked, Some(Ok(1))).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_and_an_end_may_take_their_time_and_not_more() {
        let board = Board::default();
        let (publish, _asked) = seated(&board, "a");
        publish.send_modify(|snapshot| snapshot.runs = false);
        assert_eq!(judge(&board, SECOND).await, None);
        tokio::time::sleep(STARTING + SECOND).await;
        assert!(judge(&board, SECOND).await.is_some());
        // Its bucket is asked every minute, and cannot be used.
        publish.send_modify(|snapshot| snapshot.outage = Some((1, "gone".to_owned())));
        assert_eq!(judge(&board, SECOND).await, None);

        board.leaves("a", Clock::Real.now().mono + SECOND);
        assert_eq!(judge(&board, SECOND).await, None);
        tokio::time::sleep(2 * SECOND).await;
        assert!(judge(&board, SECOND).await.is_some());
        board.unseat("a");
        assert_eq!(judge(&board, SECOND).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn every_folder_that_is_stuck_is_named_and_the_board_keeps_it() {
        let board = Board::default();
        let (_first, _asked) = seated(&board, "a");
        let (_second, _also) = seated(&board, "b");
        let (verdicts, mut told) = mpsc::channel(1);
        let judging = keep_judging(board.clone(), SECOND, verdicts);
        let stuck = tokio::select! {
            () = judging => None,
            stuck = told.recv() => stuck.flatten(),
        };
        let both = "`a`: its loop does not answer; `b`: its loop does not answer";
        assert_eq!(stuck.as_deref(), Some(both));
        assert_eq!(board.stuck(), stuck);
    }
}
