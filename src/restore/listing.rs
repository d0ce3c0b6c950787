//! What a prefix holds, as a list of what is wanted: every object but our own.
//!
//! Only a key that [`KeyMap::path`] gives a path for is taken; every other one is refused by name. Nothing of a key is
//! ever joined to a path of the disk here or later: the paths come from [`RelPath`], whose invariant rules out `..`,
//! absolute and empty parts and NUL.
//!
//! A link is a file `NAME.rclonelink` that holds the target. A file can be called so too, and a listing does not tell
//! which it is. The mode does: every link has 0777 on Linux, and that is what was stored with it. So an object of that
//! name becomes a link if its metadata says that mode and it is as long as a target can be; else it stays a file.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::base::offload::joined;
use crate::base::path::RelPath;
use crate::restore::temporary::is_temporary;
use crate::restore::wanted::{Kind, Refused, Stamp, Wanted, trouble};
use crate::store::key::KeyMap;
use crate::store::{Listed, Object, Result, Store};

/// What is put behind the name of a recorded link.
const SUFFIX: &[u8] = b".rclonelink";

/// The longest target of a link, in bytes (the kernel's `PATH_MAX` without its NUL).
pub const MAX_TARGET: u64 = 4095;

/// Every link's mode on Linux.
const LINK_MODE: u32 = 0o777;

/// Looks at objects that may be links at once.
const LOOKS: usize = 32;

/// What there is to be restored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// What can be on the disk, by path.
    pub wanted: Vec<Wanted>,
    /// Folders in which something of that lies, and which come about with it: they get their time, mode and owner.
    pub around: Vec<Wanted>,
    /// What cannot.
    pub refused: Vec<Refused>,
    /// Those of the paths that were asked for under which there is nothing.
    pub unmatched: Vec<RelPath>,
}

impl Listing {
    /// Lists what is under a prefix: everything, or what is at or below one of the paths in `only`.
    pub async fn of(store: &Arc<dyn Store>, keys: &KeyMap, only: &[RelPath]) -> Result<Self> {
        let mut found = Self::unsettled(store, keys, only).await?;
        found.settle();
        Ok(found)
    }

    /// Lists the same, also what is in the way of others: whoever knows more decides what of it counts, then settles it.
    pub async fn unsettled(
        store: &Arc<dyn Store>,
        keys: &KeyMap,
        only: &[RelPath],
    ) -> Result<Self> {
        let mut found = Self::default();
        if only.is_empty() {
            found.collect(store, keys, &RelPath::root()).await?;
        }
        // What lies below another one comes with it.
        let outer = |path: &&RelPath| !only.iter().any(|o| *path != o && path.is_within(o));
        let asked: BTreeSet<&RelPath> = only.iter().filter(outer).collect();
        for path in asked {
            if !found.collect(store, keys, path).await? {
                found.unmatched.push(path.clone());
            }
        }
        found.tell_links(store).await?;
        Ok(found)
    }

    /// Takes what is at or below `within`; returns whether anything is.
    async fn collect(
        &mut self,
        store: &Arc<dyn Store>,
        keys: &KeyMap,
        within: &RelPath,
    ) -> Result<bool> {
        let before = self.wanted.len() + self.refused.len();
        let start = if within.is_root() {
            keys.prefix().to_owned()
        } else {
            match keys.key(within) {
                Ok(key) => key,
                Err(_) => return Ok(false),
            }
        };
        let mut token = None;
        loop {
            let page = store.list(&start, token).await?;
            for object in page.objects {
                self.take(keys, within, &start, object);
            }
            token = page.next;
            if token.is_none() {
                return Ok(self.wanted.len() + self.refused.len() > before);
            }
        }
    }

    fn take(&mut self, keys: &KeyMap, within: &RelPath, start: &str, object: Listed) {
        // The prefix itself as a folder says nothing.
        if keys.is_reserved(&object.key) || object.key == keys.prefix() {
            return;
        }
        let marked = object.key.strip_suffix('/').filter(|_| object.size == 0);
        let Some(path) = keys.path(marked.unwrap_or(&object.key)) else {
            let rest = object.key.strip_prefix(start);
            if within.is_root() || rest.is_some_and(|rest| rest.starts_with('/')) {
                let why = "the key is no path below the prefix that a sync would write";
                self.refuse(object.key, why);
            }
            return;
        };
        let recorded = recorded_by(&path).is_some_and(|link| link == *within);
        if !path.is_within(within) && !recorded {
            return;
        }
        let kind = if marked.is_some() {
            Kind::Folder
        } else {
            Kind::File
        };
        self.wanted.push(Wanted {
            path,
            key: object.key,
            kind,
            size: object.size,
            etag: Some(object.etag),
            version_id: None,
            sha256: None,
            stamp: Stamp::default(),
        });
    }

    fn refuse(&mut self, key: String, why: impl Into<String>) {
        let why = why.into();
        self.refused.push(Refused { key, why });
    }

    /// Finds out which of the files that may be links are.
    async fn tell_links(&mut self, store: &Arc<dyn Store>) -> Result<()> {
        let mut looks = JoinSet::new();
        for number in 0..self.wanted.len() {
            if looks.len() >= LOOKS {
                self.looked(looks.join_next().await)?;
            }
            let wanted = &self.wanted[number];
            let can_be = wanted.kind == Kind::File
                && (1..=MAX_TARGET).contains(&wanted.size)
                && recorded_by(&wanted.path).is_some();
            if !can_be {
                continue;
            }
            let (store, key, which) = (store.clone(), wanted.key.clone(), wanted.which());
            looks.spawn(async move { (number, store.head_of(&key, &which).await) });
        }
        while let Some(look) = looks.join_next().await {
            self.looked(Some(look))?;
        }
        Ok(())
    }

    fn looked(
        &mut self,
        look: Option<std::result::Result<(usize, Result<Object>), tokio::task::JoinError>>,
    ) -> Result<()> {
        let Some((number, object)) = look.and_then(joined) else {
            return Ok(());
        };
        let object = match object {
            Ok(object) => object,
            Err(error) if error.is_of_all_objects() => return Err(error),
            // What is wrong with it is found, and named, when it is read: as a file, which it is in the bucket.
            Err(_) => return Ok(()),
        };
        let wanted = &mut self.wanted[number];
        wanted.stamp = Stamp::of(&object);
        wanted.sha256 = object.sha256();
        if wanted.stamp.mode == Some(LINK_MODE)
            && let Some(link) = recorded_by(&wanted.path)
        {
            (wanted.path, wanted.kind) = (link, Kind::Link);
        }
        Ok(())
    }

    /// Puts everything in order, and refuses what would be in the way of others.
    pub fn settle(&mut self) {
        for wanted in std::mem::take(&mut self.wanted) {
            match trouble(&wanted.path) {
                Some(why) => self.refuse(wanted.key, why),
                None => self.wanted.push(wanted),
            }
        }
        // Of two under one path the folder comes first, then the file, then the link.
        let rank = |kind| match kind {
            Kind::Folder => 0,
            Kind::File => 1,
            Kind::Link => 2,
        };
        self.wanted
            .sort_by(|a, b| (&a.path, rank(a.kind)).cmp(&(&b.path, rank(b.kind))));
        self.drop_stale_folders();
        let mut folders = BTreeSet::new();
        for wanted in &self.wanted {
            if wanted.kind == Kind::Folder {
                folders.insert(wanted.path.clone());
            }
            let mut above = wanted.path.parent();
            while let Some(folder) = above {
                above = folder.parent();
                if !folders.insert(folder) {
                    break;
                }
            }
        }
        let mut last: Option<RelPath> = None;
        for wanted in std::mem::take(&mut self.wanted) {
            let is_twice = last.as_ref() == Some(&wanted.path);
            if wanted.kind != Kind::Folder && folders.contains(&wanted.path) {
                self.refuse(wanted.key, "others lie below it, as if it were a folder");
            } else if is_twice && wanted.kind != Kind::Folder {
                self.refuse(wanted.key, "another object has the same path");
            } else if !is_twice {
                last = Some(wanted.path.clone());
                self.wanted.push(wanted);
            }
        }
        let is_around: Vec<bool> = self.wanted.iter().map(|one| self.has_below(one)).collect();
        let mut is_around = is_around.into_iter();
        let is_around = |_: &mut Wanted| is_around.next().unwrap_or(false);
        self.around.extend(self.wanted.extract_if(.., is_around));
    }

    /// Forgets folders that only the catalog knows, where by now a file is, or above them: scans tell it of folders, and
    /// jobs of files, so one of the two may be ahead.
    fn drop_stale_folders(&mut self) {
        let is_file = |path: &RelPath| {
            let at = self.wanted.partition_point(|one| one.path < *path);
            let mut here = self.wanted[at..].iter().take_while(|one| one.path == *path);
            here.any(|one| one.kind != Kind::Folder)
        };
        let is_stale = |one: &Wanted| {
            let mut at = Some(one.path.clone()).filter(|_| one.is_bare_folder());
            while let Some(path) = at {
                if is_file(&path) {
                    return true;
                }
                at = path.parent();
            }
            false
        };
        let is_stale: Vec<bool> = self.wanted.iter().map(is_stale).collect();
        let mut is_stale = is_stale.into_iter();
        self.wanted.retain(|_| !is_stale.next().unwrap_or(false));
    }

    /// Returns true for a folder that only the catalog knows, and below which something else is wanted.
    fn has_below(&self, one: &Wanted) -> bool {
        if !one.is_bare_folder() {
            return false;
        }
        let below = [one.path.as_bytes(), b"/"].concat();
        let is_before = |other: &Wanted| *other.path.as_bytes() < *below;
        let next = self.wanted.get(self.wanted.partition_point(is_before));
        next.is_some_and(|other| other.path.is_within(&one.path))
    }
}

/// Returns what a file of this path, mode and size becomes, and where: a recorded link is a link again.
pub fn kind_of(path: &RelPath, mode: Option<u32>, size: u64) -> (RelPath, Kind) {
    match recorded_by(path) {
        Some(link) if mode == Some(LINK_MODE) && (1..=MAX_TARGET).contains(&size) => {
            (link, Kind::Link)
        }
        _ => (path.clone(), Kind::File),
    }
}

/// Returns the link that a file of this path may record.
fn recorded_by(path: &RelPath) -> Option<RelPath> {
    let name = path.name().strip_suffix(SUFFIX)?;
    let is_name = !name.is_empty() && name != b"." && name != b"..";
    let is_name = is_name && !is_temporary(name);
    is_name.then(|| path.parent().map(|folder| folder.join(name)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(path: &str, kind: Kind) -> Wanted {
        Wanted {
            path: RelPath::new(path.as_bytes()).expect("a path"),
            key: format!("key of {path}"),
            kind,
            size: 1,
            etag: None,
            version_id: None,
            sha256: None,
            stamp: Stamp::default(),
        }
    }

    #[test]
    fn what_would_be_in_the_way_of_others_is_refused() {
        let (file, folder, link) = (Kind::File, Kind::Folder, Kind::Link);
        let mut listing = Listing {
            wanted: vec![
                wanted("link/child", file),
                wanted("link", link),
                wanted("twice", link),
                wanted("twice", file),
                wanted("a", file),
                wanted("a-b", file),
                wanted("a/b/c", file),
                wanted("marked", folder),
                wanted("marked", folder),
                wanted("marked/x", file),
            ],
            ..Listing::default()
        };
        listing.settle();
        let kept: Vec<_> = listing
            .wanted
            .iter()
            .map(|one| one.path.to_string())
            .collect();
        let expected = ["a-b", "a/b/c", "link/child", "marked", "marked/x", "twice"];
        assert_eq!(kept, expected);
        assert_eq!(listing.wanted[5].kind, Kind::File);
        let refused: Vec<_> = listing.refused.iter().map(|one| &*one.key).collect();
        assert_eq!(refused, ["key of a", "key of link", "key of twice"]);
    }

    #[test]
    fn a_folder_of_the_catalog_makes_room_for_files_and_is_counted_only_if_it_is_empty() {
        let bare = |path: &str| Wanted {
            key: String::new(),
            ..wanted(path, Kind::Folder)
        };
        let mut listing = Listing {
            wanted: vec![
                bare("a"),
                bare("a/empty"),
                bare("a-b"),
                bare("file"),
                bare("file/below"),
                bare("link/below/it"),
                bare("marked"),
                wanted("a-b.txt", Kind::File),
                wanted("b/c", Kind::File),
                bare("b"),
                wanted("file", Kind::File),
                wanted("link", Kind::Link),
                wanted("marked", Kind::Folder),
            ],
            ..Listing::default()
        };
        listing.settle();
        let names = |all: &[Wanted]| -> Vec<String> {
            all.iter().map(|one| one.path.to_string()).collect()
        };
        let expected = ["a-b", "a-b.txt", "a/empty", "b/c", "file", "link", "marked"];
        assert_eq!(names(&listing.wanted), expected);
        assert_eq!(names(&listing.around), ["a", "b"]);
        assert_eq!(listing.refused, []);
        assert_eq!(listing.wanted[4].kind, Kind::File);
    }

    #[test]
    fn a_link_is_recorded_under_its_name_and_the_suffix() {
        let of = |text: &str| {
            let path = RelPath::new(text.as_bytes()).expect("a path");
            recorded_by(&path).map(|path| path.to_string())
        };
        assert_eq!(of("a/b.rclonelink").as_deref(), Some("a/b"));
        assert_eq!(of("b.rclonelink").as_deref(), Some("b"));
        for none in ["a/.rclonelink", "a/...rclonelink", "a/..rclonelink", "a/b"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
