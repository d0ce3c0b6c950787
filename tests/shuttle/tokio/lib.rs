//! What the product's map of contents uses of tokio: a channel for one value.

/// As in the crate of that name.
pub mod sync {
    /// As in the crate of that name.
    pub mod oneshot {
        use std::fmt;
        use std::future::Future;
        use std::pin::Pin;
        use std::task::{Context, Poll, Waker};

        use shuttle::sync::{Arc, Mutex};

        struct State<T> {
            value: Option<T>,
            waker: Option<Waker>,
            is_sender_gone: bool,
            is_receiver_gone: bool,
        }

        type Shared<T> = Arc<Mutex<State<T>>>;

        /// Sends the value, or says by its going away that there is none.
        pub struct Sender<T>(Shared<T>);

        /// Waits for the value.
        pub struct Receiver<T>(Shared<T>);

        /// There is no value, and there will be none.
        #[derive(Debug)]
        pub struct RecvError;

        /// Makes both ends.
        pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
            let state = Arc::new(Mutex::new(State {
                value: None,
                waker: None,
                is_sender_gone: false,
                is_receiver_gone: false,
            }));
            (Sender(state.clone()), Receiver(state))
        }

        impl<T> Sender<T> {
            /// Sends the value; gives it back if nobody waits.
            pub fn send(self, value: T) -> Result<(), T> {
                let mut state = self.0.lock().expect("nobody panics with it");
                if state.is_receiver_gone {
                    return Err(value);
                }
                state.value = Some(value);
                Ok(())
            }
        }

        impl<T> Drop for Sender<T> {
            fn drop(&mut self) {
                let waker = {
                    let mut state = self.0.lock().expect("nobody panics with it");
                    state.is_sender_gone = true;
                    state.waker.take()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }

        impl<T> Drop for Receiver<T> {
            fn drop(&mut self) {
                self.0.lock().expect("nobody panics with it").is_receiver_gone = true;
            }
        }

        impl<T> Future for Receiver<T> {
            type Output = Result<T, RecvError>;

            fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
                let mut state = self.0.lock().expect("nobody panics with it");
                if let Some(value) = state.value.take() {
                    return Poll::Ready(Ok(value));
                }
                if state.is_sender_gone {
                    return Poll::Ready(Err(RecvError));
                }
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }

        impl<T> fmt::Debug for Sender<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("Sender")
            }
        }

        impl<T> fmt::Debug for Receiver<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("Receiver")
            }
        }
    }
}
