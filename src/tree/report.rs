//! How a tree is watched, in numbers and in words.

use std::fmt;

use crate::base::path::RelPath;

/// How a tree is watched now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WatchReport {
    /// In the first place.
    pub mode: Watching,
    /// Folders that the kernel tells of.
    pub watched: usize,
    /// How many the user may have, for all programs; `None`: that is hidden, or nothing is watched.
    pub allowed: Option<u64>,
    /// Folders that should be watched and are looked at again and again instead.
    pub polled: usize,
    /// What would let those be watched.
    pub advice: Option<String>,
    /// Mounts inside that tell nothing, or not everything, and their filesystems.
    pub mounts: Vec<(RelPath, String)>,
    /// Filesystems that are watched although they do not tell everything, because the config wants it so.
    pub untold: Vec<String>,
    /// Mounts inside that were there and are not now: nothing below is judged.
    pub away: Vec<RelPath>,
}

/// How a tree is watched in the first place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Watching {
    /// It is not; only scans look.
    #[default]
    Off,
    /// By the kernel's events.
    Native,
    /// By the kernel's events, and, for this reason, by looking again and again as well.
    Both(String),
    /// By looking again and again, for this reason.
    Polling(String),
}

impl fmt::Display for WatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mode {
            Watching::Off => f.write_str("off")?,
            Watching::Native => f.write_str("native")?,
            Watching::Both(why) => write!(f, "native and polling: {why}")?,
            Watching::Polling(why) => write!(f, "polling: {why}")?,
        }
        if self.polled > 0 {
            let all = self.watched + self.polled;
            write!(f, "; {} of {all} folders are polled", self.polled)?;
            if let Some(advice) = &self.advice {
                write!(f, ": {advice}")?;
            }
        }
        for (mount, filesystem) in &self.mounts {
            write!(f, "; `{mount}` is polled: {filesystem}")?;
        }
        for filesystem in &self.untold {
            write!(f, "; {filesystem} does not tell of every change")?;
        }
        for mount in &self.away {
            write!(f, "; `{mount}` is not mounted")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_name_what_is_not_watched_and_what_to_do() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("a valid path");
        let mut report = WatchReport {
            mode: Watching::Native,
            watched: 40,
            ..WatchReport::default()
        };
        assert_eq!(report.to_string(), "native");
        report.polled = 160;
        report.advice = Some("raise fs.inotify.max_user_watches to 400".to_owned());
        report.mounts = vec![(path("share"), "nfs4".to_owned())];
        report.away = vec![path("disk")];
        assert_eq!(
            report.to_string(),
            "native; 160 of 200 folders are polled: raise fs.inotify.max_user_watches to 400; \
             `share` is polled: nfs4; `disk` is not mounted"
        );
        let polling = WatchReport {
            mode: Watching::Polling("nfs4".to_owned()),
            ..WatchReport::default()
        };
        assert_eq!(polling.to_string(), "polling: nfs4");
    }
}
