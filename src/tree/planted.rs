//! Hard links that somebody may have made to have a file read that is not theirs.

use crate::base::path::RelPath;
use crate::base::stat::Stat;
use crate::tree::Tree;

/// Why such a link is left out.
pub const PLANTED: &str = "it is a hard link to a file of another owner than its folder's, which somebody may have made to \
    have a file read that is not theirs; give it the folder's owner, or copy it";

/// Returns true for a hard link to another user's file, in a folder where others than root may make one: whoever made it
/// may not be allowed to read what it names.
pub fn is_planted(tree: &dyn Tree, path: &RelPath, stat: &Stat) -> bool {
    let folder = path.parent().unwrap_or_else(RelPath::root);
    stat.nlink > 1
        && tree.stat(&folder).is_ok_and(|folder| {
            let is_roots = folder.uid == 0 && folder.mode & 0o022 == 0;
            folder.uid != stat.uid && !is_roots
        })
}
