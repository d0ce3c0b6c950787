//! Sends an object's bytes: a chunk in memory at a time, read on the blocking pool.

use std::fs::File;
use std::future::Future as _;
use std::io::{self, Read as _, Seek as _};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use s3s::Body;
use s3s::dto::StreamingBlob;
use tokio::task::JoinHandle;

/// How much of an object is read at once, in bytes; a smaller one is answered from memory.
const CHUNK: u64 = 256 << 10;

/// Returns the range of an open file as an answer's body. Blocks.
pub fn body(mut file: File, range: &Range<u64>) -> io::Result<StreamingBlob> {
    if range.start > 0 {
        file.seek(io::SeekFrom::Start(range.start))?;
    }
    let len = range.end - range.start;
    if len > CHUNK {
        return Ok(StreamingBlob::from(Body::http_body(Reading {
            left: len,
            step: Step::Idle(file),
        })));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact(&mut bytes)?;
    Ok(StreamingBlob::from(Body::from(Bytes::from(bytes))))
}

/// A file that is sent chunk by chunk, one in memory at a time.
struct Reading {
    left: u64,
    step: Step,
}

enum Step {
    Idle(File),
    Busy(JoinHandle<io::Result<(File, Bytes)>>),
    Over,
}

impl hyper::body::Body for Reading {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let step = &mut this.step;
        loop {
            match std::mem::replace(step, Step::Over) {
                Step::Over => return Poll::Ready(None),
                Step::Idle(_) if this.left == 0 => return Poll::Ready(None),
                Step::Idle(mut file) => {
                    let len = this.left.min(CHUNK) as usize;
                    *step = Step::Busy(tokio::task::spawn_blocking(move || {
                        let mut bytes = vec![0; len];
                        file.read_exact(&mut bytes)?;
                        Ok((file, Bytes::from(bytes)))
                    }));
                }
                Step::Busy(mut task) => {
                    let Poll::Ready(done) = Pin::new(&mut task).poll(cx) else {
                        *step = Step::Busy(task);
                        return Poll::Pending;
                    };
                    let (file, bytes) = done.map_err(io::Error::other)??;
                    this.left -= bytes.len() as u64;
                    *step = Step::Idle(file);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
