//! What an answer carries: bytes at once, or a stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::commands::page::events::{Events, Said};

/// The next piece of a stream, and what says the one after it.
type Next = Pin<Box<dyn Future<Output = Option<Said>> + Send>>;

/// A body. A stream is asked for its next piece only when the line has taken the one before.
pub enum Body {
    /// Bytes; `None` once they are taken.
    Whole(Option<Bytes>),
    /// Events, until whoever says them ends.
    Stream(Next),
}

impl Body {
    /// Begins a stream.
    pub fn stream(events: Events) -> Self {
        Self::Stream(Box::pin(events.next()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(next) => match next.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => {
                    *self = Self::Whole(None);
                    Poll::Ready(None)
                }
                Poll::Ready(Some(Said { bytes, events })) => {
                    *next = Box::pin(events.next());
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
