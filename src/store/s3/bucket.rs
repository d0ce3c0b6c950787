//! What is set on a bucket as a whole, and who asks: what `check` looks at. Nothing of it is needed to store objects.

use aws_sdk_s3::types::{AbortIncompleteMultipartUpload, ExpirationStatus, ObjectLockEnabled};

use crate::store::s3::S3Store;
use crate::store::s3::attempt::Call;
use crate::store::s3::classify::trouble;
use crate::store::{ErrorKind, Result};

/// A lifecycle rule that is in force, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Of which keys; empty: of all.
    pub prefix: String,
    /// After how many days it ends unfinished uploads, if it does.
    pub aborts_days: Option<i32>,
    /// Whether it removes old versions.
    pub ends_versions: bool,
}

impl S3Store {
    /// Returns the bucket's lifecycle rules that are in force; none if there is no configuration.
    pub async fn lifecycle(&self) -> Result<Vec<Rule>> {
        let call = Call::read("GetBucketLifecycleConfiguration", "");
        let asked = self.run(call, |watch| async {
            let request = self.client().get_bucket_lifecycle_configuration();
            let answer = request
                .bucket(&self.bucket)
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let enabled = answer
                .rules()
                .iter()
                .filter(|rule| *rule.status() == ExpirationStatus::Enabled);
            Ok(enabled
                .map(|rule| {
                    let filter = rule.filter();
                    let prefix = filter.and_then(|filter| filter.prefix());
                    let and = filter.and_then(|filter| filter.and());
                    #[expect(deprecated, reason = "older rules have it there")]
                    let old = rule.prefix();
                    let prefix = prefix.or(and.and_then(|and| and.prefix())).or(old);
                    let aborts = rule.abort_incomplete_multipart_upload();
                    Rule {
                        prefix: prefix.unwrap_or_default().to_owned(),
                        aborts_days: aborts
                            .and_then(AbortIncompleteMultipartUpload::days_after_initiation),
                        ends_versions: rule.noncurrent_version_expiration().is_some(),
                    }
                })
                .collect())
        });
        match asked.await.map_err(|failure| failure.error) {
            Err(error) if error.code == "NoSuchLifecycleConfiguration" => Ok(Vec::new()),
            answer => answer,
        }
    }

    /// Returns whether objects of the bucket can be locked.
    pub async fn has_lock(&self) -> Result<bool> {
        let call = Call::read("GetObjectLockConfiguration", "");
        let asked = self.run(call, |watch| async {
            let request = self.client().get_object_lock_configuration();
            let answer = request
                .bucket(&self.bucket)
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let lock = answer.object_lock_configuration();
            let is_on = lock.and_then(|lock| lock.object_lock_enabled());
            Ok(is_on == Some(&ObjectLockEnabled::Enabled))
        });
        match asked.await.map_err(|failure| failure.error) {
            Err(error)
                if error.code == "ObjectLockConfigurationNotFoundError"
                    || error.kind == ErrorKind::NotFound =>
            {
                Ok(false)
            }
            answer => answer,
        }
    }

    /// Returns where the credentials came from that requests were signed with, and when they end, seconds since the epoch;
    /// `None` before the first request. Never the credentials.
    pub fn credentials_source(&self) -> Option<(String, Option<u64>)> {
        self.reach.credentials_source()
    }
}
