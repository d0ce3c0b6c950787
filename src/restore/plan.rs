//! What becomes of one path of the target. (pure)

use crate::base::path::RelPath;
use crate::restore::wanted::{Kind, Wanted};

/// What happens where the target has something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnConflict {
    /// Nothing is written at all; every conflict is named.
    #[default]
    Fail,
    /// What is there stays.
    Skip,
    /// A file or a link makes room for what is restored; a folder or a device never does.
    Overwrite,
}

/// What the target has at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum There {
    /// Nothing, and only folders above it.
    Nothing,
    /// A file.
    File(Same),
    /// A folder.
    Folder,
    /// A link; whether it leads where the wanted one does.
    Link {
        /// Whether the targets are equal.
        is_same: bool,
    },
    /// A FIFO, socket or device.
    Special,
    /// Something that is no folder where one has to be.
    Blocked(RelPath),
}

/// How a file of the target compares with the content that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Same {
    /// Content, time and mode are equal, as far as they are known.
    All(By),
    /// The content is equal, its time or mode is not.
    Content(By),
    /// The content is another, or nothing proves that it is not.
    Not,
}

/// What proves that a content is the one that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum By {
    /// Its SHA-256, which whoever stored it declared.
    Sha256,
    /// The CRC64NVME that the store made when it took it.
    Crc64,
    /// The ETag, which is the MD5 of what was stored in one piece.
    Md5,
    /// Its size and the object's ETag, or its size and time: nothing better is known.
    Size,
}

impl By {
    /// Returns its name in results.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Crc64 => "crc64",
            Self::Md5 => "md5",
            Self::Size => "size",
        }
    }
}

/// What becomes of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing: it is there.
    Done(Option<By>),
    /// Its time and mode are put right.
    Stamp(By),
    /// It is made where nothing is.
    Make,
    /// It is put in the place of what is there.
    Replace,
    /// What is there stays, as was asked for.
    Skip(String),
    /// What is there stays, and somebody has to decide.
    Conflict(String),
}

/// Decides what becomes of a path.
pub fn step(wanted: &Wanted, there: &There, on_conflict: OnConflict) -> Step {
    let (why, can_make_room) = match (wanted.kind, there) {
        (_, There::Nothing) => return Step::Make,
        (Kind::Folder, There::Folder) | (Kind::Link, There::Link { is_same: true }) => {
            return Step::Done(None);
        }
        (Kind::File, There::File(Same::All(by))) => return Step::Done(Some(*by)),
        (Kind::File, There::File(Same::Content(by))) => return Step::Stamp(*by),
        (_, There::Blocked(path)) => (format!("`{path}` is not a folder"), false),
        (Kind::File, There::File(Same::Not)) => ("another file is there".to_owned(), true),
        (Kind::Folder, There::File(_)) => ("a file is there".to_owned(), false),
        (Kind::Link, There::File(_)) => ("a file is there".to_owned(), true),
        (Kind::Folder, There::Link { .. }) => ("a link is there".to_owned(), false),
        (Kind::File, There::Link { .. }) => ("a link is there".to_owned(), true),
        (Kind::Link, There::Link { .. }) => ("another link is there".to_owned(), true),
        (_, There::Folder) => ("a folder is there".to_owned(), false),
        (_, There::Special) => ("a device, FIFO or socket is there".to_owned(), false),
    };
    match on_conflict {
        OnConflict::Overwrite if can_make_room => Step::Replace,
        OnConflict::Skip => Step::Skip(why),
        OnConflict::Fail | OnConflict::Overwrite => Step::Conflict(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::wanted::Stamp;

    #[test]
    fn what_is_there_decides_and_only_files_and_links_make_room() {
        use OnConflict::{Fail, Overwrite, Skip};
        let blocked = There::Blocked(RelPath::new(b"a").expect("a path"));
        let link = |is_same| There::Link { is_same };
        let (all, content) = (Same::All(By::Sha256), Same::Content(By::Md5));
        // What is wanted, what is there, and what becomes of it under each of the three.
        let table: &[(Kind, There, [&str; 3])] = &[
            (Kind::File, There::Nothing, ["make"; 3]),
            (Kind::Folder, There::Nothing, ["make"; 3]),
            (Kind::Link, There::Nothing, ["make"; 3]),
            (Kind::File, There::File(all), ["done"; 3]),
            (Kind::File, There::File(content), ["stamp"; 3]),
            (
                Kind::File,
                There::File(Same::Not),
                ["no", "skip", "replace"],
            ),
            (Kind::File, There::Folder, ["no", "skip", "no"]),
            (Kind::File, link(true), ["no", "skip", "replace"]),
            (Kind::File, There::Special, ["no", "skip", "no"]),
            (Kind::File, blocked.clone(), ["no", "skip", "no"]),
            (Kind::Folder, There::Folder, ["done"; 3]),
            (Kind::Folder, There::File(all), ["no", "skip", "no"]),
            (Kind::Folder, link(true), ["no", "skip", "no"]),
            (Kind::Folder, blocked.clone(), ["no", "skip", "no"]),
            (Kind::Link, link(true), ["done"; 3]),
            (Kind::Link, link(false), ["no", "skip", "replace"]),
            (Kind::Link, There::File(all), ["no", "skip", "replace"]),
            (Kind::Link, There::Folder, ["no", "skip", "no"]),
            (Kind::Link, There::Special, ["no", "skip", "no"]),
            (Kind::Link, blocked, ["no", "skip", "no"]),
        ];
        for (kind, there, expected) in table {
            let wanted = Wanted {
                path: RelPath::new(b"a/b").expect("a path"),
                key: String::new(),
                kind: *kind,
                size: 1,
                etag: None,
                version_id: None,
                sha256: None,
                stamp: Stamp::default(),
            };
            let words = [Fail, Skip, Overwrite].map(|mode| match step(&wanted, there, mode) {
                Step::Done(_) => "done",
                Step::Stamp(_) => "stamp",
                Step::Make => "make",
                Step::Replace => "replace",
                Step::Skip(_) => "skip",
                Step::Conflict(_) => "no",
            });
            assert_eq!(words, *expected, "{kind:?} {there:?}");
        }
    }
}
