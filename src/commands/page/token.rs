//! The word that lets somebody see names and decide: 64 hexadecimal digits in the state folder, for its owner alone.
//!
//! Made at the first start and kept. Must never be logged. Whoever may read the state folder may read it, and could ask
//! the agent's socket as well.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};
use subtle::ConstantTimeEq as _;

/// Its name in the state folder.
const NAME: &str = "token";
/// Random bytes in it.
const BYTES: usize = 32;

/// The token. Shown nowhere by accident: its `Debug` says only that it is there.
#[derive(Clone)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Returns true if `given` is the token. Takes as long for every text of the right length.
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// Returns it, for the one who may read its file.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Takes what a file holds; `None` if that is no token.
    fn of(text: &str) -> Option<Self> {
        let text = text.trim_end();
        let is_whole = text.len() == 2 * BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
        is_whole.then(|| Self(text.to_owned()))
    }

    fn random() -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        let mut filled = 0;
        while filled < BYTES {
            filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
        }
        let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Ok(Self(digits.map(digit).collect()))
    }
}

/// Returns where the token of a state folder is.
pub fn place(state_dir: &Path) -> PathBuf {
    state_dir.join(NAME)
}

/// Reads the token of a state folder; `None` if it has none yet, or half of one. Blocks.
pub fn read(state_dir: &Path) -> io::Result<Option<Token>> {
    match fs::read_to_string(place(state_dir)) {
        Ok(text) => Ok(Token::of(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the token of a state folder that this process holds, and makes one where there is none. One that others may have
/// read is replaced. Blocks.
pub fn keep(state_dir: &Path) -> io::Result<Token> {
    if let Some(token) = read(state_dir)? {
        // Nothing for the group and others: their six bits.
        let mode = fs::metadata(place(state_dir))?.permissions().mode();
        if mode.trailing_zeros() >= 6 {
            return Ok(token);
        }
        tracing::warn!(
            "the page's token could be read by others (mode {:o}); a new one takes its place",
            mode & 0o777
        );
    }
    let token = Token::random()?;
    write(state_dir, &token)?;
    Ok(token)
}

#[expect(
    clippy::disallowed_methods,
    reason = "not durable on purpose: half a token after a power cut is replaced at the next start"
)]
fn write(state_dir: &Path, token: &Token) -> io::Result<()> {
    let temporary = state_dir.join(format!("{NAME}.new"));
    // Left by a start that was cut short, perhaps with another mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    writeln!(file, "{}", token.0)?;
    fs::rename(&temporary, place(state_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(read(dir.path()).expect("readable").is_none());
        let token = keep(dir.path()).expect("it is made");
        assert_eq!(token.reveal().len(), 64);
        let stat = fs::metadata(place(dir.path())).expect("it is there");
        assert_eq!(stat.permissions().mode() & 0o777, 0o600);
        let again = keep(dir.path()).expect("it is kept");
        assert_eq!(again.reveal(), token.reveal());
        assert!(token.is(again.reveal()));
        assert!(!token.is("") && !token.is(&token.reveal()[1..]));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn a_token_that_is_cut_short_or_open_to_others_is_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = keep(dir.path()).expect("it is made");
        let open = fs::Permissions::from_mode(0o644);
        fs::set_permissions(place(dir.path()), open).expect("a mode");
        let second = keep(dir.path()).expect("it is made anew");
        assert!(!second.is(first.reveal()));
        let mut file = fs::File::create(place(dir.path())).expect("a file");
        file.write_all(b"abc").expect("half of it");
        assert!(!keep(dir.path()).expect("it is made anew").is("abc"));
    }
}
