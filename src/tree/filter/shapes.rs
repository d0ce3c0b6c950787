//! Names that programs give to files that are not meant to stay. (pure)
//!
//! Not among them: `#` and digits, the names that the kernel gives to files without a name. They are only ever met in
//! events, where a look finds nothing under them; a file that a walk finds under such a name is the user's.

/// A shape of names that programs give to files that are not meant to stay.
///
/// Each is as narrow as the program allows, because a wrong match leaves a user's file out of the bucket, while a
/// temporary that slips through costs one needless object. Vim's probe `4913` is therefore not here: it lives for
/// microseconds, never long enough to settle, but people do have files of that name.
struct Shape {
    text: &'static str,
    fits: fn(&[u8]) -> bool,
}

/// Returns the shape that a name has, if it is one of those.
pub fn of(name: &[u8]) -> Option<&'static str> {
    let shape = SHAPES.iter().find(|shape| (shape.fits)(name));
    shape.map(|shape| shape.text)
}

const SHAPES: &[Shape] = &[
    Shape {
        text: ".*.sw?",
        fits: is_vim_swap,
    },
    Shape {
        text: ".*.swpx",
        fits: |name| name.starts_with(b".") && name.ends_with(b".swpx"),
    },
    Shape {
        text: ".#*",
        fits: |name| name.starts_with(b".#"),
    },
    Shape {
        text: "#*#",
        fits: |name| name.len() > 2 && name.starts_with(b"#") && name.ends_with(b"#"),
    },
    Shape {
        text: ".~lock.*#",
        fits: |name| name.starts_with(b".~lock.") && name.ends_with(b"#"),
    },
    Shape {
        text: "~$*",
        fits: |name| name.starts_with(b"~$"),
    },
    Shape {
        text: ".NAME.XXXXXX",
        fits: is_rsync_temporary,
    },
    Shape {
        text: "*.crdownload",
        fits: |name| name.ends_with(b".crdownload"),
    },
    Shape {
        text: "*.part",
        fits: |name| name.ends_with(b".part"),
    },
    Shape {
        text: ".nfs*",
        fits: |name| is_hex_behind(name, b".nfs", 16),
    },
    Shape {
        text: ".fuse_hidden*",
        fits: |name| is_hex_behind(name, b".fuse_hidden", 8),
    },
    Shape {
        text: ".goutputstream-*",
        fits: |name| name.starts_with(b".goutputstream-"),
    },
    // Our own: a file that is being restored, until it is whole.
    Shape {
        text: ".tidewatch-restore-*",
        fits: |name| is_hex_behind(name, b".tidewatch-restore-", 16),
    },
];

/// Vim counts its swap files down from `.swp`; the leading dot stands also for a file that has no name yet (`.swp`).
fn is_vim_swap(name: &[u8]) -> bool {
    let Some((&last, rest)) = name.split_last() else {
        return false;
    };
    name.starts_with(b".") && rest.ends_with(b".sw") && matches!(last, b'a'..=b'p' | b'x')
}

/// Rsync puts a dot before the name and six random letters or digits behind it.
///
/// `.env.sample`, `.bashrc.backup` and `.notes.202401` have that shape too, so a case switch inside the six is asked
/// for, which words and dates do not have and 93 of 100 random endings do.
fn is_rsync_temporary(name: &[u8]) -> bool {
    let Some((rest, ending)) = name.split_last_chunk::<6>() else {
        return false;
    };
    let named = rest.len() > 2 && rest.starts_with(b".") && rest.ends_with(b".");
    let random = ending.iter().all(u8::is_ascii_alphanumeric)
        && ending[1..].iter().any(u8::is_ascii_uppercase)
        && ending.iter().any(|b| !b.is_ascii_uppercase());
    named && random
}

/// The kernel's NFS client and libfuse rename an open file that is deleted to a prefix and hexadecimal numbers.
fn is_hex_behind(name: &[u8], prefix: &[u8], at_least: usize) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.len() >= at_least && rest.iter().all(u8::is_ascii_hexdigit))
}
