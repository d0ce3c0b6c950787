//! An answer of words, held to a length: whoever answers must not be able to fill the memory.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The longest answer that is not a content, bytes. The longest that S3 gives is a listing: 1,000 keys of 1,024 bytes, each of
/// them three when it is encoded, with some hundred bytes around each key.
const MOST: usize = 16 << 20;

/// A body that breaks off where it becomes too long.
///
/// Invariant: it has handed out at most [`MOST`] bytes.
pub(super) struct Bounded {
    inner: SdkBody,
    left: usize,
}

impl Bounded {
    pub fn new(inner: SdkBody) -> Self {
        Self { inner, left: MOST }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let Some(left) = self.left.checked_sub(data.len()) else {
                let why = format!("it is longer than {} MiB", MOST >> 20);
                return Poll::Ready(Some(Err(why.into())));
            };
            self.left = left;
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.inner)
    }
}
