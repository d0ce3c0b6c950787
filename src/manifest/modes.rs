//! That a state folder is its owner's alone, also one that was there before with other rights.
//!
//! A folder that only we use is closed to all others. One that is used for other things too, or is not ours, stays as it is;
//! where others could put a file of theirs in place of ours there, it is refused.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::process::geteuid;

use crate::manifest::OpenError;

/// What a mode lets group and others do.
const OTHERS: u32 = 0o077;
/// What it lets them write.
const WRITE: u32 = 0o022;
/// Only a file's owner may remove it from such a folder.
const STICKY: u32 = 0o1000;

/// Closes the folder `dir`, and in it the file `lock` and those whose names begin with `database`, to everybody but the owner.
pub(super) fn close(dir: &Path, lock: &str, database: &str) -> Result<(), OpenError> {
    let refused = |reason: String| OpenError::Unusable {
        doing: "trust",
        path: dir.to_path_buf(),
        reason,
    };
    let folder = File::open(dir).map_err(OpenError::io("open", dir))?;
    let stat = folder.metadata().map_err(OpenError::io("look at", dir))?;
    let me = geteuid().as_raw();
    let (mut is_ours, mut is_empty) = (false, true);
    for entry in fs::read_dir(dir).map_err(OpenError::io("list", dir))? {
        let entry = entry.map_err(OpenError::io("list", dir))?;
        is_empty = false;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name != lock.as_bytes() && !name.starts_with(database.as_bytes()) {
            continue;
        }
        is_ours = true;
        // Gone meanwhile: a journal of the database's comes and goes.
        let Ok(found) = entry.metadata() else {
            continue;
        };
        if stat.mode() & STICKY != 0 && found.uid() != me && found.uid() != 0 {
            return Err(refused(format!(
                "the user {} has put a file there under our name; give another --state-dir",
                found.uid()
            )));
        }
        if found.is_file() && found.uid() == me && found.mode() & OTHERS != 0 {
            let closed = Permissions::from_mode(found.mode() & 0o7777 & !OTHERS);
            // A filesystem without rights, or one that is read-only: the folder's own count.
            let _ = fs::set_permissions(entry.path(), closed);
        }
    }
    if stat.mode() & OTHERS == 0 || stat.mode() & STICKY != 0 {
        return Ok(());
    }
    if stat.uid() == me && (is_ours || is_empty) {
        let closed = Permissions::from_mode(stat.mode() & 0o7777 & !OTHERS);
        let done = folder.set_permissions(closed);
        if done.is_ok()
            && folder
                .metadata()
                .is_ok_and(|stat| stat.mode() & OTHERS != 0)
        {
            // Rights are the whole filesystem's there, and whoever mounted it has given them.
            return Ok(());
        }
        return done.map_err(OpenError::io("close to others", dir));
    }
    if stat.mode() & WRITE != 0 {
        return Err(refused(format!(
            "others can write to it (mode {:o}), and so replace what we know; give --state-dir a folder of its own, or \
             `chmod go-w` it",
            stat.mode() & 0o777
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
    }

    fn folder(mode: u32, files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for name in files {
            File::create(dir.path().join(name)).expect("a file");
            let open = Permissions::from_mode(0o666);
            fs::set_permissions(dir.path().join(name), open).expect("a mode");
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).expect("a mode");
        dir
    }

    #[test]
    fn what_is_ours_is_closed_and_what_is_not_is_left_or_refused() {
        let try_it = |found, files: &[&str]| {
            let dir = folder(found, files);
            let closed = close(dir.path(), "lock", "db").map_err(|error| error.to_string());
            let modes: Vec<u32> = files
                .iter()
                .map(|name| mode(&dir.path().join(name)))
                .collect();
            (closed.map(|()| mode(dir.path())), modes)
        };
        assert_eq!(try_it(0o755, &[]), (Ok(0o700), vec![]));
        assert_eq!(try_it(0o2777, &["lock"]), (Ok(0o2700), vec![0o600]));
        assert_eq!(
            try_it(0o755, &["db-wal", "other"]),
            (Ok(0o700), vec![0o600, 0o666])
        );
        // Somebody's folder of other things.
        assert_eq!(try_it(0o755, &["other"]), (Ok(0o755), vec![0o666]));
        let (refused, modes) = try_it(0o775, &["other"]);
        assert!(refused.is_err_and(|why| why.contains("chmod go-w")));
        assert_eq!(modes, [0o666]);
        assert_eq!(try_it(0o1777, &["other"]).0, Ok(0o1777));
        assert_eq!(try_it(0o500, &[]).0, Ok(0o500));
    }
}
