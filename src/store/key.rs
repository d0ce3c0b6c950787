//! Which key a path has, and which path a key means.
//!
//! The key is the prefix and the path as it is, except for bytes that a key cannot or should not hold: each byte that is
//! not UTF-8, each byte of a control character (C0, DEL, C1) and each byte of a literal U+201B becomes `‛XX`, U+201B and two upper-case
//! hexadecimal digits. A control character in one key makes the listing of a whole prefix unreadable on some stores, and
//! S3 has no keys that are not UTF-8.
//!
//! Invariant: the map is injective, and [`KeyMap::path`] is its exact inverse: it refuses every key that [`KeyMap::key`]
//! would not make. Never touches the bucket or the disk.

use std::fmt::Write as _;

use crate::base::path::RelPath;

/// The longest key, in bytes of UTF-8 (S3's limit).
pub const MAX_KEY_BYTES: usize = 1024;

/// The folder below the prefix that is Tidewatch's own.
pub const RESERVED: &str = ".tidewatch";

/// The reserved object that says which agent owns the prefix.
pub const LEASE: &str = "lease.json";

/// The reserved object in which the agent says how it is.
pub const STATUS: &str = "status.json";

/// The reserved folder of deltas and snapshots of the tree.
pub const CATALOG: &str = "catalog/";

/// The reserved folder of what a delete or an overwrite set aside.
pub const TRASH: &str = "trash/";

/// The reserved folder of new contents that a brake keeps from overwriting.
pub const QUARANTINE: &str = "quarantine/";

/// What the reserved folders begin with in which a store is asked what it can do.
pub const PROBE: &str = "probe-";

/// What marks an escaped byte.
const MARK: char = '\u{201b}';

/// Paths to keys and back, for one prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyMap {
    prefix: String,
}

/// Why a path has no key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// The key would be longer than S3 takes.
    #[error("the key would have {bytes} bytes, and S3 takes at most {MAX_KEY_BYTES}")]
    TooLong {
        /// How long it would be.
        bytes: usize,
    },
    /// The path is the folder that Tidewatch keeps for itself, or lies in it.
    #[error("`{RESERVED}` at the top of a folder is Tidewatch's own name in the bucket")]
    Reserved,
    /// The root itself is not an object.
    #[error("the root of a folder has no key")]
    Root,
}

impl KeyMap {
    /// Makes the map for `prefix`, which is empty or ends with `/`.
    pub fn new(prefix: &str) -> Self {
        debug_assert!(prefix.is_empty() || prefix.ends_with('/'));
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// Returns the prefix: empty, or ending with `/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the key of `path`.
    pub fn key(&self, path: &RelPath) -> Result<String, KeyError> {
        if path.is_root() {
            return Err(KeyError::Root);
        }
        if is_own(path.as_bytes()) {
            return Err(KeyError::Reserved);
        }
        self.join("", path)
    }

    /// Returns the path whose key is `key`; `None` for reserved keys, for keys outside the prefix, and for keys that
    /// [`KeyMap::key`] would not make.
    pub fn path(&self, key: &str) -> Option<RelPath> {
        let rest = key.strip_prefix(&self.prefix)?;
        let path = RelPath::new(&unescape(rest)?)?;
        // What can be read in more than one way is only right in the way that we write it.
        (self.key(&path).as_deref() == Ok(key)).then_some(path)
    }

    /// Returns a key of our own: `PREFIX.tidewatch/NAME`.
    pub fn reserved(&self, name: &str) -> String {
        format!("{}{RESERVED}/{name}", self.prefix)
    }

    /// Returns true for keys of our own, which are never a path's.
    pub fn is_reserved(&self, key: &str) -> bool {
        key.strip_prefix(&self.prefix)
            .is_some_and(|rest| is_own(rest.as_bytes()))
    }

    /// Returns where the object of `path` is set aside: `PREFIX.tidewatch/trash/<UTC>/path`. `utc` is one component.
    ///
    /// A trash key is longer than the path's own key, so it can be too long where that is not.
    pub fn trash_key(&self, utc: &str, path: &RelPath) -> Result<String, KeyError> {
        debug_assert!(!utc.is_empty() && !utc.contains('/'));
        self.join(&format!("{RESERVED}/{TRASH}{utc}/"), path)
    }

    /// Returns what the keys of everything that was set aside begin with.
    pub fn trash_prefix(&self) -> String {
        format!("{}{RESERVED}/{TRASH}", self.prefix)
    }

    /// Returns where new content of `path` waits while a person is asked whether it may overwrite the old:
    /// `PREFIX.tidewatch/quarantine/path`.
    pub fn quarantine_key(&self, path: &RelPath) -> Result<String, KeyError> {
        self.join(&format!("{RESERVED}/{QUARANTINE}"), path)
    }

    fn join(&self, folder: &str, path: &RelPath) -> Result<String, KeyError> {
        let mut key =
            String::with_capacity(self.prefix.len() + folder.len() + path.as_bytes().len());
        key.push_str(&self.prefix);
        key.push_str(folder);
        escape(path.as_bytes(), &mut key);
        if key.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong { bytes: key.len() });
        }
        Ok(key)
    }
}

/// Returns true for `.tidewatch` and everything below it.
fn is_own(path: &[u8]) -> bool {
    path.strip_prefix(RESERVED.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn escape(bytes: &[u8], key: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == MARK || c.is_control() {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    escape_byte(byte, key);
                }
            } else {
                key.push(c);
            }
        }
        for byte in chunk.invalid() {
            escape_byte(*byte, key);
        }
    }
}

fn escape_byte(byte: u8, key: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(key, "{MARK}{byte:02X}");
}

/// Takes escapes of either case back; `None` if a mark is not followed by two digits.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.split(MARK);
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn path(bytes: &[u8]) -> RelPath {
        RelPath::new(bytes).expect("a valid path")
    }

    #[test]
    fn usual_names_are_their_own_keys() {
        let map = KeyMap::new("p/");
        for name in [
            "a",
            "a/b.txt",
            "für/Ünï 1+1=2 %41?#&*.txt",
            "日本/😀",
            " ",
            "-",
        ] {
            assert_eq!(map.key(&path(name.as_bytes())), Ok(format!("p/{name}")));
        }
        assert_eq!(
            KeyMap::new("").key(&path(b"a/b")).as_deref(),
            Ok("a/b"),
            "an empty prefix"
        );
    }

    #[test]
    fn what_a_key_cannot_hold_is_escaped_byte_by_byte() {
        let map = KeyMap::new("");
        for (name, key) in [
            (&b"a\nb"[..], "a\u{201b}0Ab"),
            (b"\x7f", "\u{201b}7F"),
            ("\u{85}".as_bytes(), "\u{201b}C2\u{201b}85"),
            (b"\xff\xfe", "\u{201b}FF\u{201b}FE"),
            // A character cut short, followed by one that is whole.
            (b"\xe2\x80x", "\u{201b}E2\u{201b}80x"),
            ("\u{201b}0A".as_bytes(), "\u{201b}E2\u{201b}80\u{201b}9B0A"),
        ] {
            assert_eq!(map.key(&path(name)).as_deref(), Ok(key));
            assert_eq!(map.path(key), Some(path(name)));
        }
    }

    #[test]
    fn keys_that_no_path_has_are_refused() {
        let map = KeyMap::new("p/");
        for key in [
            "a",
            "p/",
            "p",
            "p//a",
            "p/a/",
            "p/../a",
            "p/\u{201b}0a",
            "p/\u{201b}4",
            "p/\u{201b}",
            "p/\u{201b}+1",
            "p/\u{201b}41",
            "p/\u{201b}C3\u{201b}A9",
            "p/\u{201b}00",
            "p/\n",
            "p/\u{85}",
            "p/a\u{201b}2Fb",
            "p/.tidewatch",
            "p/.tidewatch/lease.json",
            "p/\u{201b}\u{e9}x",
        ] {
            assert_eq!(map.path(key), None, "{key:?}");
        }
        assert_eq!(map.path(&format!("p/{}", "x".repeat(1023))), None);
    }

    #[test]
    fn our_own_folder_is_reserved_at_the_top_only() {
        let map = KeyMap::new("p/");
        assert_eq!(map.key(&path(b".tidewatch")), Err(KeyError::Reserved));
        assert_eq!(map.key(&path(b".tidewatch/x")), Err(KeyError::Reserved));
        assert!(map.key(&path(b".tidewatch2")).is_ok());
        assert!(map.key(&path(b"a/.tidewatch")).is_ok());
        assert_eq!(map.key(&RelPath::root()), Err(KeyError::Root));
        assert!(map.is_reserved(&map.reserved(LEASE)));
        assert!(!map.is_reserved("p/a") && !map.is_reserved("p/.tidewatch2/x"));
        assert_eq!(map.reserved(STATUS), "p/.tidewatch/status.json");
        assert_eq!(
            map.trash_key("20260101T000000Z", &path(b"a\x01"))
                .as_deref(),
            Ok("p/.tidewatch/trash/20260101T000000Z/a\u{201b}01")
        );
    }

    #[test]
    fn a_key_of_1024_bytes_is_the_longest() {
        let map = KeyMap::new("p/");
        let longest = path("x".repeat(1022).as_bytes());
        assert!(map.key(&longest).is_ok_and(|key| key.len() == 1024));
        let longer = path("x".repeat(1023).as_bytes());
        assert_eq!(map.key(&longer), Err(KeyError::TooLong { bytes: 1025 }));
        assert!(map.trash_key("T", &longest).is_err());
        // One byte becomes five.
        let escaped = path(&[0xff; 205]);
        assert_eq!(map.key(&escaped), Err(KeyError::TooLong { bytes: 1027 }));
    }

    /// Names from a small alphabet that meets every rule, so that collisions would show.
    fn random_name(random: &mut fastrand::Rng) -> Vec<u8> {
        const PIECES: [&[u8]; 22] = [
            b"a",
            b"/",
            b"0A",
            b"E2",
            b"9B",
            b"\n",
            b"\x7f",
            b"\xff",
            b"\xe2",
            b"\x80",
            b"\x9b",
            b"\xc2",
            b"\x85",
            "\u{201b}".as_bytes(),
            "\u{85}".as_bytes(),
            "é".as_bytes(),
            b"%",
            b".",
            b" ",
            b"\xf0\x9f",
            b"\x98\x80",
            b"\x01",
        ];
        let mut name = Vec::new();
        for _ in 0..random.usize(1..7) {
            name.extend_from_slice(PIECES[random.usize(..PIECES.len())]);
        }
        name
    }

    #[test]
    fn random_names_go_there_and_back_and_never_meet() {
        for prefix in ["", "p/", "p/q\u{201b}/"] {
            let map = KeyMap::new(prefix);
            let mut seen: HashMap<String, RelPath> = HashMap::new();
            let mut random = fastrand::Rng::with_seed(7);
            for round in 0..40_000 {
                let name = if round % 4 == 0 {
                    let len = random.usize(1..40);
                    (0..len).map(|_| random.u8(..)).collect()
                } else {
                    random_name(&mut random)
                };
                let Some(path) = RelPath::new(&name).filter(|path| !path.is_root()) else {
                    continue;
                };
                let Ok(key) = map.key(&path) else { continue };
                assert!(!key[prefix.len()..].chars().any(char::is_control));
                assert_eq!(map.path(&key).as_ref(), Some(&path), "{key:?}");
                if let Some(other) = seen.insert(key, path.clone()) {
                    assert_eq!(other, path);
                }
            }
        }
    }

    #[test]
    fn a_random_key_that_is_accepted_is_the_key_of_its_path() {
        let map = KeyMap::new("");
        let mut random = fastrand::Rng::with_seed(11);
        let letters = ['a', '/', '\u{201b}', '0', 'A', 'F', 'E', '2', '.', '\n'];
        for _ in 0..40_000 {
            let key: String = (0..random.usize(1..9))
                .map(|_| letters[random.usize(..letters.len())])
                .collect();
            if let Some(path) = map.path(&key) {
                assert_eq!(map.key(&path), Ok(key));
            }
        }
    }
}
