//! What the command line runs besides the agent.

pub mod alarm;
pub mod bill;
pub mod board;
pub mod check;
pub mod control;
#[cfg(feature = "demo")]
pub mod demo;
pub mod drill;
pub mod estimate;
pub mod explain;
pub mod features;
pub mod fleet;
pub mod folder;
pub mod folders;
pub mod held;
pub mod history;
pub mod init;
pub mod kept;
pub mod lines;
pub mod manager;
pub mod open;
pub mod page;
pub mod pages;
pub mod pause;
pub mod policy;
pub mod reload;
pub mod restore;
pub mod selftest;
pub mod service;
pub mod settings;
pub mod signals;
pub mod status;
pub mod stores;
pub mod sync;
pub mod unusable;
pub mod verify;
pub mod watch;
pub mod watchdog;

use std::process::ExitCode;

/// How a command ended: the exit codes are a contract with scripts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// 0: done, level; also `run` and `watch` stopped by a signal after draining.
    Level,
    /// 1: some files failed, also unreadable ones.
    Failed,
    /// 2: wrong usage or config.
    Usage,
    /// 3: done, but a file inside the filter could not be synced as it is.
    Different,
    /// 4: a brake holds deletes or overwrites.
    Held,
    /// 5: S3 cannot be reached, or a right is missing: nothing could be sent.
    Unreachable,
    /// 6: another agent holds the state folder or the prefix.
    Taken,
    /// 130: stopped by SIGINT before it was done.
    Interrupted,
    /// 143: stopped by SIGTERM before it was done.
    Terminated,
}

impl Exit {
    /// Returns the number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Level => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Different => 3,
            Self::Held => 4,
            Self::Unreachable => 5,
            Self::Taken => 6,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// Returns the one of two that a command over several folders ends with.
    ///
    /// A stop goes before everything, because nothing that was counted until then is the whole; then the order is
    /// 2, 6, 5, 1, 4, 3, 0.
    #[must_use]
    pub fn strongest(self, other: Self) -> Self {
        if other.strength() > self.strength() {
            other
        } else {
            self
        }
    }

    fn strength(self) -> u8 {
        match self {
            Self::Level => 0,
            Self::Different => 1,
            Self::Held => 2,
            Self::Failed => 3,
            Self::Unreachable => 4,
            Self::Taken => 5,
            Self::Usage => 6,
            Self::Interrupted => 7,
            Self::Terminated => 8,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_of_all_folders_is_what_the_shell_sees() {
        let order = [
            Exit::Terminated,
            Exit::Interrupted,
            Exit::Usage,
            Exit::Taken,
            Exit::Unreachable,
            Exit::Failed,
            Exit::Held,
            Exit::Different,
            Exit::Level,
        ];
        assert_eq!(order.map(Exit::code), [143, 130, 2, 6, 5, 1, 4, 3, 0]);
        for (place, strong) in order.iter().enumerate() {
            for weak in &order[place..] {
                assert_eq!(strong.strongest(*weak), *strong);
                assert_eq!(weak.strongest(*strong), *strong);
            }
        }
    }
}
