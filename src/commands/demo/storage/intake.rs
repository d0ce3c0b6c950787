//! Takes a body in: streamed into a temporary file with bounded memory, hashed on the way.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use s3s::dto::StreamingBlob;
use s3s::{Body, S3Error, S3Result, s3_error};

use crate::base::offload::Offload;
use crate::commands::demo::storage::files::{Files, Temporary};
use crate::commands::demo::storage::sums::{Hasher, Method, Sum};
use crate::commands::demo::storage::{Storage, bad_request};
use crate::store::MAX_SINGLE;

/// How much of a body is gathered before it is written, in bytes: below it, a body costs one trip to the blocking pool.
const GATHER: usize = 1 << 20;

/// How much is read at once where bytes are copied and hashed, in bytes.
const CHUNK: usize = 256 << 10;

/// A body on its way into a file.
pub struct Intake {
    temporary: Temporary,
    size: u64,
    hasher: Hasher,
    /// Arrived, not yet written.
    gathered: Vec<Bytes>,
}

/// A body that is whole, in a file that has not got its place yet.
pub struct Taken {
    pub temporary: Temporary,
    pub size: u64,
    pub md5: [u8; 16],
    pub sum: Sum,
}

impl Intake {
    /// Begins with no bytes. Blocks.
    pub fn new(files: &Files, method: Method) -> io::Result<Self> {
        Ok(Self {
            temporary: files.temporary()?,
            size: 0,
            hasher: Hasher::new(method),
            gathered: Vec::new(),
        })
    }

    /// Writes and hashes what was gathered. Blocks.
    fn write(&mut self) -> io::Result<()> {
        for bytes in self.gathered.drain(..) {
            self.hasher.update(&bytes);
            self.temporary.file.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Copies `len` bytes of a file. Blocks.
    pub fn copy(&mut self, from: &File, len: u64) -> io::Result<()> {
        let mut from = from.take(len);
        let mut chunk = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK)).max(1)];
        loop {
            let count = from.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            self.hasher.update(&chunk[..count]);
            self.temporary.file.write_all(&chunk[..count])?;
            self.size += count as u64;
        }
        if from.limit() == 0 {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Writes the rest. Blocks.
    pub fn finish(mut self) -> io::Result<Taken> {
        self.write()?;
        let (md5, sum) = self.hasher.finish();
        Ok(Taken {
            temporary: self.temporary,
            size: self.size,
            md5,
            sum,
        })
    }
}

/// Reads a request's body. What is returned still has to be finished, on the blocking pool.
pub async fn receive(
    storage: &Storage,
    body: Option<StreamingBlob>,
    length: Option<u64>,
    method: Method,
) -> S3Result<Gathered> {
    if length.is_some_and(|length| length > MAX_SINGLE) {
        return Err(s3_error!(EntityTooLarge));
    }
    let mut body = body.map_or_else(Body::empty, Body::from);
    let mut begun: Option<Intake> = None;
    let mut rest = Vec::new();
    let (mut waiting, mut total) = (0, 0);
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|error| refused(&*error))?.into_data() else {
            continue;
        };
        waiting += bytes.len();
        total += bytes.len() as u64;
        if total > MAX_SINGLE {
            return Err(s3_error!(EntityTooLarge));
        }
        rest.push(bytes);
        if waiting >= GATHER {
            let batch = Gathered {
                begun,
                rest,
                total,
                method,
            };
            let state = storage.state();
            let intake = Offload::Pool
                .run(move || {
                    let mut intake = batch.into_intake(&state.files)?;
                    intake.write()?;
                    io::Result::Ok(intake)
                })
                .await
                .map_err(S3Error::internal_error)?;
            begun = Some(intake);
            rest = Vec::new();
            waiting = 0;
        }
    }
    Ok(Gathered {
        begun,
        rest,
        total,
        method,
    })
}

/// A body that has arrived, its last bytes still in memory.
pub struct Gathered {
    begun: Option<Intake>,
    rest: Vec<Bytes>,
    total: u64,
    method: Method,
}

impl Gathered {
    fn into_intake(self, files: &Files) -> io::Result<Intake> {
        let mut intake = match self.begun {
            Some(intake) => intake,
            None => Intake::new(files, self.method)?,
        };
        intake.gathered = self.rest;
        intake.size = self.total;
        Ok(intake)
    }

    /// Writes the rest. Blocks.
    pub fn finish(self, files: &Files) -> S3Result<Taken> {
        self.into_intake(files)
            .and_then(Intake::finish)
            .map_err(S3Error::internal_error)
    }
}

/// Returns what the client is told when its body ends with an error.
///
/// The protocol library's errors of bodies cannot be named, so that their words have to do.
fn refused(error: &(dyn std::error::Error + Send + Sync + 'static)) -> S3Error {
    let words = error.to_string();
    if words.contains("Sha256Mismatch") {
        bad_request(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
    } else if words.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch)
    } else {
        s3_error!(
            IncompleteBody,
            "The body could not be read to its end: {words}"
        )
    }
}
