//! One link: records and a header to the bytes of an object, and back. The only file that names zstd.
//!
//! Reading is bounded, whatever the bytes are: by the object's length, by what it unpacks to, by the length of a line and by
//! the memory that unpacking takes.

use std::io::{BufRead, BufReader, Read as _};

use bytes::Bytes;

use crate::base::digest::Sha256;
use crate::catalog::record::{Fault, Header, Record, broken};
use crate::store::key::{CATALOG, KeyMap};

/// The most records of a link: some 20 MB of lines, and 4 MB of an object.
pub const RECORDS_MOST: usize = 50_000;
/// The most bytes of lines of a link that is written. Where paths are very long this ends it before the records do.
const LINES_MOST: usize = 24 << 20;
/// The most bytes of an object that is read: more than what is written has before it is packed.
pub const OBJECT_MOST: u64 = 32 << 20;
/// The most bytes that a link may unpack to.
const UNPACKED_MOST: u64 = 64 << 20;
/// The longest line: a path of 4,096 bytes, of which each is escaped, its key, and room for the rest.
const LINE_MOST: u64 = 64 << 10;
/// How far back unpacking may look, as a power of two: 8 MiB, four times of what is written.
const WINDOW_LOG_MOST: u32 = 23;
/// Where speed and size meet: higher levels take twice the time for a tenth of the size, of hashes that do not pack.
const LEVEL: i32 = 3;

/// Records that are on their way into a link.
#[derive(Default, Debug)]
pub struct Draft {
    lines: Vec<u8>,
    records: usize,
}

impl Draft {
    /// Adds a record.
    pub fn push(&mut self, record: &Record) {
        record.write(&mut self.lines);
        self.records += 1;
    }

    /// Returns true if no more records go in.
    pub fn is_full(&self) -> bool {
        self.records >= RECORDS_MOST || self.lines.len() >= LINES_MOST
    }

    /// Returns the bytes of the link, and their hash.
    pub fn finish(&self, header: &Header) -> std::io::Result<(Bytes, Sha256)> {
        let packed = Vec::with_capacity(self.lines.len() / 4);
        let mut encoder = zstd::stream::write::Encoder::new(packed, LEVEL)?;
        encoder.include_checksum(true)?;
        std::io::Write::write_all(&mut encoder, &header.line())?;
        std::io::Write::write_all(&mut encoder, &self.lines)?;
        let bytes = Bytes::from(encoder.finish()?);
        let sha256 = Sha256::of(&bytes);
        Ok((bytes, sha256))
    }
}

/// Returns a link's header.
pub fn header(bytes: &[u8]) -> Result<Header, Fault> {
    let mut lines = Lines::new(bytes)?;
    let line = lines
        .next()?
        .ok_or_else(|| broken(1, "there is no header"))?;
    Header::parse(line)
}

/// Returns a link's header, and gives each of its records to `each`.
///
/// On an error some may have been given.
pub fn read(bytes: &[u8], keys: &KeyMap, mut each: impl FnMut(Record)) -> Result<Header, Fault> {
    let mut lines = Lines::new(bytes)?;
    let line = lines
        .next()?
        .ok_or_else(|| broken(1, "there is no header"))?;
    let header = Header::parse(line)?;
    let mut number = 1;
    while let Some(line) = lines.next()? {
        number += 1;
        each(Record::parse(line, number, keys)?);
    }
    Ok(header)
}

/// Returns the whole key of link `number`.
pub fn key(keys: &KeyMap, number: u64) -> String {
    keys.reserved(&format!("{CATALOG}{number:010}.jsonl.zst"))
}

/// Returns the number of the link that has this whole key; `None` if none has.
pub fn number(keys: &KeyMap, whole: &str) -> Option<u64> {
    let name = whole.strip_prefix(&keys.reserved(CATALOG))?;
    let digits = name.strip_suffix(".jsonl.zst")?;
    let number: u64 = digits.parse().ok()?;
    (number > 0 && key(keys, number) == whole).then_some(number)
}

/// The lines of a link.
struct Lines<'a> {
    from: BufReader<std::io::Take<zstd::stream::read::Decoder<'static, BufReader<&'a [u8]>>>>,
    line: Vec<u8>,
    count: u64,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        let unpack = || {
            let mut decoder = zstd::stream::read::Decoder::new(bytes)?;
            decoder.window_log_max(WINDOW_LOG_MOST)?;
            Ok(decoder)
        };
        let decoder = unpack().map_err(|error: std::io::Error| {
            Fault::Broken(format!("it does not unpack: {error}"))
        })?;
        Ok(Self {
            from: BufReader::new(decoder.take(UNPACKED_MOST)),
            line: Vec::new(),
            count: 0,
        })
    }

    /// Returns the next line without its end; `None` at the end of the link.
    fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        self.line.clear();
        self.count += 1;
        let mut limited = (&mut self.from).take(LINE_MOST);
        let read = limited.read_until(b'\n', &mut self.line);
        read.map_err(|error| Fault::Broken(format!("it does not unpack: {error}")))?;
        let is_cut = self.from.get_ref().limit() == 0;
        match self.line.split_last() {
            Some((b'\n', line)) => Ok(Some(line)),
            _ if is_cut => Err(Fault::Broken("it unpacks to more than a link has".into())),
            None => Ok(None),
            Some(_) => Err(broken(self.count, "it is too long, or cut off")),
        }
    }
}
