//! A root element's other name: rclone's server begins the answer to `CreateMultipartUpload` with
//! `InitiateMultipartUpload`, without "Result", and the SDK looks at the root before it looks for the upload's id.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};

const OTHER: &str = "<InitiateMultipartUpload>";
const OTHER_END: &str = "</InitiateMultipartUpload>";

/// An answer that names a bucket, a key and an id is shorter. What is longer is passed on as it is.
const MOST: usize = 64 << 10;

/// Gives the answer's root the name that S3 gives it.
#[derive(Debug)]
pub(super) struct Root;

#[dyn_dispatch_hint]
impl Intercept for Root {
    fn name(&self) -> &'static str {
        "Root"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        if response.status().is_success() {
            let inner = std::mem::replace(response.body_mut(), SdkBody::taken());
            *response.body_mut() = SdkBody::from_body_1_x(Renamed {
                inner,
                held: BytesMut::new(),
                is_done: false,
            });
        }
        Ok(())
    }
}

/// A body that is handed out whole, under its right name.
struct Renamed {
    inner: SdkBody,
    held: BytesMut,
    is_done: bool,
}

impl Body for Renamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while !self.is_done {
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                    if self.held.len() > MOST {
                        let held = self.held.split().freeze();
                        return Poll::Ready(Some(Ok(Frame::data(held))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.is_done = true;
                    let whole = named(self.held.split().freeze());
                    if !whole.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(whole))));
                    }
                }
            }
        }
        Poll::Ready(None)
    }
}

fn named(answer: Bytes) -> Bytes {
    match std::str::from_utf8(&answer) {
        Ok(text) if text.contains(OTHER) => text
            .replace(OTHER, "<InitiateMultipartUploadResult>")
            .replace(OTHER_END, "</InitiateMultipartUploadResult>")
            .into(),
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_gets_another_name() {
        let right =
            "<?xml?><InitiateMultipartUploadResult><Key>k</Key></InitiateMultipartUploadResult>";
        assert_eq!(named(right.into()), right);
        let other = right.replace("UploadResult", "Upload");
        assert_eq!(named(other.into()), right);
        assert_eq!(named(Bytes::from_static(b"\xff")), b"\xff"[..]);
    }

    #[tokio::test]
    async fn an_answer_is_handed_out_whole_however_it_comes() {
        for text in [
            String::new(),
            "x".repeat(MOST * 3),
            format!("{OTHER}{OTHER_END}"),
        ] {
            let wanted = named(text.clone().into());
            let mut body = Renamed {
                inner: SdkBody::from(text),
                held: BytesMut::new(),
                is_done: false,
            };
            let mut got = BytesMut::new();
            while let Some(frame) =
                std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
            {
                got.extend_from_slice(&frame.unwrap().into_data().unwrap());
            }
            assert_eq!(got.freeze(), wanted);
        }
    }
}
