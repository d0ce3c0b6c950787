//! How many requests an endpoint is sent at once: as many as it takes, and no more. (pure)
//!
//! Doubled each round trip from 16 until goodput stops rising by 3 % or the first trouble; from then on, once a window of at
//! least one second and twenty answers: raised by a tenth while requests or bytes a second grow by 3 %, cut by 0.7 when
//! the store asked for patience, halved when more than one request in twenty was lost, and not raised for ten seconds after
//! either. What was on its way when it was cut says nothing about what is sent since.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::limits::Verdict;

/// Where slow start begins: one connection more than a browser would open to two hosts, and no burden to any store.
pub(in crate::sync::limits) const START: u64 = 16;
/// The most requests in flight: S3's 3,500 puts a second for a prefix at 65 ms. More only if they are asked for.
const MOST: u64 = 256;
/// A window is at least this long once slow start has ended.
const WINDOW: Duration = Duration::from_secs(1);
/// And at least this many completions.
const WINDOW_COMPLETIONS: u64 = 20;
/// Growth of goodput that counts as growth.
const GROWTH: f64 = 1.03;
/// What a window leaves of the best that was reached before it. Without it the goodput of better days would have to be
/// exceeded before anything is tried; a third of [`GROWTH`], so that a steady flow does not look like growth.
const MEMORY: f64 = 0.99;
/// Windows in a row without growth that end slow start. One says nothing: answers come in bursts, one a round trip, and a
/// window may hold one burst more or less.
const FLAT: u32 = 2;
/// No raising for this long after trouble.
const CALM: Duration = Duration::from_secs(10);
/// Losses count when they are more than one in this many requests.
const LOSS: u64 = 20;

/// Decides how many requests may be in flight.
#[derive(Debug)]
pub(in crate::sync::limits) struct Pace {
    adapts: bool,
    limit: u64,
    slow_start: bool,
    window: Option<Window>,
    /// The most requests and bytes a second of any window since the last trouble.
    best: (f64, f64),
    /// Windows in a row without growth.
    flat: u32,
    calm_until: Option<Instant>,
    /// When it was last cut.
    cut_at: Option<Instant>,
}

/// What was seen since the last decision.
#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    completions: u64,
    bytes: u64,
    lost: u64,
    throttled: bool,
    /// Whether anybody had to wait: if not, a larger limit would not have been used, and what was reached says nothing.
    contended: bool,
}

impl Window {
    fn new(began: Instant) -> Self {
        Self {
            began,
            completions: 0,
            bytes: 0,
            lost: 0,
            throttled: false,
            contended: false,
        }
    }

    fn take(&mut self, verdict: Verdict, contended: bool) {
        self.contended |= contended;
        match verdict {
            Verdict::Done(bytes) => {
                self.completions += 1;
                self.bytes += bytes;
            }
            Verdict::Throttled => self.throttled = true,
            Verdict::Lost => self.lost += 1,
            Verdict::Neither => {}
        }
    }

    /// A throttle is trouble, and so is the loss of more than one request in twenty.
    fn is_troubled(&self) -> bool {
        self.throttled || self.lost * LOSS > (self.completions + self.lost).max(LOSS)
    }
}

impl Pace {
    pub fn new(adapts: bool, limit: u64) -> Self {
        Self {
            adapts,
            limit,
            slow_start: true,
            window: None,
            best: (0.0, 0.0),
            flat: 0,
            calm_until: None,
            cut_at: None,
        }
    }

    /// Opens the first window. Not at the first answer: all of a first burst are answered at once, which would look like a
    /// rate that no later window could reach.
    pub fn began(&mut self, now: Instant) {
        self.window.get_or_insert(Window::new(now));
    }

    /// Takes the end of a request that began at `began`; returns the new limit when a window has closed and changed it.
    pub fn ended(
        &mut self,
        verdict: Verdict,
        contended: bool,
        began: Instant,
        now: Instant,
    ) -> Option<u64> {
        if !self.adapts {
            return None;
        }
        let is_answered = matches!(verdict, Verdict::Done(_));
        let verdict = if !is_answered && self.cut_at.is_some_and(|cut| began < cut) {
            Verdict::Neither
        } else {
            verdict
        };
        let window = self.window.get_or_insert(Window::new(now));
        window.take(verdict, contended);
        let window = *window;
        let is_long = now.saturating_duration_since(window.began) >= WINDOW;
        let is_full = if self.slow_start {
            window.completions >= self.limit
        } else {
            is_long && window.completions >= WINDOW_COMPLETIONS
        };
        // Trouble is answered once a window, but need not wait for completions that do not come.
        if !is_full && !(window.is_troubled() && (self.slow_start || is_long)) {
            return None;
        }
        let before = self.limit;
        self.limit = self.next(&window, now).clamp(1, MOST);
        self.window = Some(Window::new(now));
        (self.limit != before).then_some(self.limit)
    }

    fn next(&mut self, window: &Window, now: Instant) -> u64 {
        if window.is_troubled() {
            self.slow_start = false;
            self.calm_until = Some(now + CALM);
            self.cut_at = Some(now);
            self.best = (0.0, 0.0);
            let factor = if window.throttled { 0.7 } else { 0.5 };
            return (self.limit as f64 * factor) as u64;
        }
        if !window.contended || self.calm_until.is_some_and(|until| now < until) {
            return self.limit;
        }
        let seconds = now
            .saturating_duration_since(window.began)
            .as_secs_f64()
            .max(1e-6);
        let reached = (
            window.completions as f64 / seconds,
            window.bytes as f64 / seconds,
        );
        let grew = reached.0 > self.best.0 * GROWTH || reached.1 > self.best.1 * GROWTH;
        self.best = (
            (self.best.0 * MEMORY).max(reached.0),
            (self.best.1 * MEMORY).max(reached.1),
        );
        self.flat = if grew { 0 } else { self.flat + 1 };
        match (grew, self.slow_start) {
            (true, true) => self.limit * 2,
            (true, false) => self.limit + (self.limit / 10).max(1),
            (false, _) => {
                self.slow_start &= self.flat < FLAT;
                self.limit
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(pace: &mut Pace, now: &mut Instant, completions: u64, each: Duration) -> Option<u64> {
        let mut last = None;
        for _ in 0..completions {
            *now += each;
            last = pace.ended(Verdict::Done(4096), true, *now, *now).or(last);
        }
        last
    }

    #[tokio::test(start_paused = true)]
    async fn slow_start_doubles_until_goodput_stops_rising() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, START);
        // The first completion opens the window.
        assert_eq!(
            window(&mut pace, &mut now, 16, Duration::from_micros(1000)),
            Some(32)
        );
        assert_eq!(
            window(&mut pace, &mut now, 32, Duration::from_micros(500)),
            Some(64)
        );
        assert_eq!(
            window(&mut pace, &mut now, 64, Duration::from_micros(500)),
            None
        );
        assert!(pace.slow_start);
        assert_eq!(
            window(&mut pace, &mut now, 64, Duration::from_micros(500)),
            None
        );
        assert!(!pace.slow_start);
        assert_eq!(pace.limit, 64);
    }

    #[tokio::test(start_paused = true)]
    async fn one_window_that_caught_a_burst_less_does_not_end_slow_start() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, START);
        let each = Duration::from_micros(500);
        assert_eq!(window(&mut pace, &mut now, 16, each), Some(32));
        assert_eq!(window(&mut pace, &mut now, 32, each * 2), None);
        assert_eq!(window(&mut pace, &mut now, 32, each / 2), Some(64));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_burst_that_is_answered_at_once_does_not_end_slow_start() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, START);
        pace.began(now);
        for (limit, next) in [
            (16, Some(32)),
            (32, Some(64)),
            (64, Some(128)),
            (128, Some(256)),
        ] {
            // Each round trip takes 30 ms, and its answers come within a moment.
            now += Duration::from_millis(30);
            assert_eq!(
                window(&mut pace, &mut now, limit, Duration::from_micros(1)),
                next
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_cuts_once_a_window_and_pauses_raising() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, 100);
        pace.slow_start = false;
        pace.window = Some(Window::new(now));
        now += Duration::from_millis(500);
        assert_eq!(pace.ended(Verdict::Throttled, true, now, now), None);
        assert_eq!(pace.ended(Verdict::Throttled, true, now, now), None);
        now += Duration::from_millis(600);
        assert_eq!(pace.ended(Verdict::Done(1), true, now, now), Some(70));
        assert_eq!(
            window(&mut pace, &mut now, 40, Duration::from_millis(100)),
            None
        );
        assert_eq!(
            window(&mut pace, &mut now, 100, Duration::from_millis(100)),
            Some(77)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_agent_does_not_grow() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, START);
        for _ in 0..1000 {
            now += Duration::from_millis(5);
            assert_eq!(pace.ended(Verdict::Done(1), false, now, now), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_on_its_way_when_it_was_cut_is_not_held_against_it() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, 100);
        let before = now;
        now += Duration::from_millis(100);
        assert_eq!(pace.ended(Verdict::Throttled, true, before, now), Some(70));
        for _ in 0..69 {
            now += Duration::from_millis(30);
            assert_eq!(pace.ended(Verdict::Throttled, true, before, now), None);
        }
        // One that was sent since is another matter.
        let since = now;
        now += Duration::from_secs(1);
        assert_eq!(pace.ended(Verdict::Throttled, true, since, now), Some(49));
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_one_loss_in_twenty_halves_it_and_fewer_do_not() {
        for (answered, lost, limit) in [
            (95, 5, None),
            (94, 6, Some(32)),
            (0, 1, None),
            (0, 2, Some(32)),
        ] {
            let mut now = Clock::now_mono();
            let mut pace = Pace::new(true, 64);
            pace.slow_start = false;
            pace.best = (1e9, 1e9);
            pace.window = Some(Window::new(now));
            for _ in 0..answered {
                assert_eq!(pace.ended(Verdict::Done(1), true, now, now), None);
            }
            for _ in 1..lost {
                assert_eq!(pace.ended(Verdict::Lost, true, now, now), None);
            }
            now += WINDOW;
            let last = pace.ended(Verdict::Lost, true, now, now);
            assert_eq!(last, limit, "{answered} answered, {lost} lost");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn better_days_are_forgotten_in_the_end() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, 32);
        pace.slow_start = false;
        pace.began(now);
        assert_eq!(
            window(&mut pace, &mut now, 1000, Duration::from_millis(1)),
            Some(35)
        );
        // The line is ten times slower from now on. It is not tried with more until the memory has faded.
        assert_eq!(
            window(&mut pace, &mut now, 100 * 100, Duration::from_millis(10)),
            None
        );
        assert!(window(&mut pace, &mut now, 100 * 200, Duration::from_millis(10)).is_none());
        // A tenth more now counts as growth, though the first days had ten times as much.
        assert_eq!(
            window(&mut pace, &mut now, 200, Duration::from_millis(9)),
            Some(38)
        );
    }

    struct Clock;
    impl Clock {
        fn now_mono() -> Instant {
            crate::base::clock::Clock::Real.now().mono
        }
    }
}
