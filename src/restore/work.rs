//! What a restore has to do, gathered while it looks. (pure)

use crate::restore::place::Job;
use crate::restore::target::Over;
use crate::restore::wanted::{Kind, Wanted};

/// What has to be done.
#[derive(Debug, Default)]
pub struct Work {
    /// Folders that are made.
    pub folders: Vec<Wanted>,
    /// Files that are brought back.
    pub files: Vec<Job>,
    /// Links that are brought back.
    pub links: Vec<Job>,
    /// Files of which only time and mode are put right.
    pub stamps: Vec<Wanted>,
    /// Folders that get a time and mode at the end.
    pub folder_stamps: Vec<Wanted>,
}

impl Work {
    /// Returns what has to be done in a target in which nothing is.
    pub fn of_nothing(wanted: Vec<Wanted>) -> Self {
        let mut work = Self::default();
        for one in wanted {
            work.add(one, Over::Nothing);
        }
        work
    }

    /// Adds what is to be made.
    pub fn add(&mut self, wanted: Wanted, over: Over) {
        let jobs = match wanted.kind {
            Kind::Folder => {
                self.folder_stamps.push(wanted.clone());
                return self.folders.push(wanted);
            }
            Kind::File => &mut self.files,
            Kind::Link => &mut self.links,
        };
        jobs.push(Job {
            wanted,
            over,
            is_again: false,
        });
    }

    /// Brings files of one folder together again, which were looked at side by side.
    pub fn sort(&mut self) {
        self.files.sort_by(|a, b| a.wanted.path.cmp(&b.wanted.path));
    }

    /// Returns how much it is.
    pub fn count(&self) -> u64 {
        let wanted = self.folders.len() + self.stamps.len();
        (wanted + self.files.len() + self.links.len()) as u64
    }
}
