//! The clients of buckets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::base::host;
use crate::base::meter::Meter;
use crate::base::price::Usage;
use crate::base::terms::Terms;
use crate::commands::settings;
use crate::config::{self, S3};
use crate::store::s3::{S3Store, Settings, SetupError};

/// The clients of buckets: one for all folders that reach the same bucket in the same way.
#[derive(Debug, Default)]
pub struct Stores {
    /// Access key and secret of an endpoint inside this process.
    credentials: Option<(String, String)>,
    known: Mutex<Vec<Known>>,
    warned: Mutex<BTreeSet<String>>,
    meter: Arc<Meter>,
}

/// How a bucket is reached, what is stored there by which terms, and the client for that.
type Known = ((S3, Terms), String, Client);

type Client = Arc<OnceCell<Arc<S3Store>>>;

impl Stores {
    /// Reaches every bucket with these keys, which an endpoint inside this process has made.
    #[cfg(feature = "demo")]
    pub fn with_credentials(access_key: &str, secret_key: &str) -> Self {
        Self {
            credentials: Some((access_key.to_owned(), secret_key.to_owned())),
            ..Self::default()
        }
    }

    /// Returns the client of a folder's bucket. Sends nothing to it.
    ///
    /// An error is not remembered: what it names may have been put right when it is asked again.
    pub async fn open(&self, folder: &config::Folder) -> Result<Arc<S3Store>, SetupError> {
        let client = self.client(folder);
        let settings = self.settings(folder);
        let made = client.get_or_try_init(|| async {
            let store = S3Store::new(&settings, &folder.to.bucket).await?;
            self.warn_if_open(store.endpoint_url());
            for warning in folder.terms.warnings() {
                self.warn_once(&warning);
            }
            Ok(Arc::new(store))
        });
        made.await.cloned()
    }

    /// Returns where all their requests are counted.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Returns what they come to on a bill.
    pub fn usage(&self) -> Usage {
        Usage::of(&self.meter.read())
    }

    fn client(&self, folder: &config::Folder) -> Client {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let how = (folder.s3.clone(), folder.terms.clone());
        let bucket = &folder.to.bucket;
        let same = known.iter().find(|(a, b, _)| *a == how && b == bucket);
        if let Some((_, _, client)) = same {
            return client.clone();
        }
        let client = Client::default();
        known.push((how, bucket.clone(), client.clone()));
        client
    }

    fn settings(&self, folder: &config::Folder) -> Settings {
        Settings {
            credentials: self.credentials.clone(),
            meter: self.meter.clone(),
            ..settings::of(&folder.s3, &folder.terms)
        }
    }

    /// Says once of each endpoint that what is sent to it can be read on the way.
    fn warn_if_open(&self, endpoint_url: &str) {
        if host::is_open_line(endpoint_url) {
            self.warn_once(&format!("files are sent unencrypted to {endpoint_url}"));
        }
    }

    fn warn_once(&self, what: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert(what.to_owned()) {
            tracing::warn!("{what}");
        }
    }
}
