//! What users set for each object, as requests say it: class, encryption, access, tags, retention, and who pays.
//!
//! An object of the agent's own gets the encryption only, and the grant to the bucket's owner: it is rewritten, read and
//! removed all the time.
//!
//! The two macros set it on every builder that has the fields, which the SDK gives no common trait.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat as Format};
use aws_sdk_s3::types::{
    ObjectCannedAcl, ObjectLockMode, RequestPayer, ServerSideEncryption, StorageClass,
    TaggingDirective,
};
use md5::Digest as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::base::terms::{Encryption, LockMode, Terms};
use crate::store::Meta;
use crate::store::s3::connect::{Settings, SetupError};
use crate::store::s3::direct::Said;

/// The access list that other accounts' buckets ask for.
const FOR_THE_OWNER: &str = "bucket-owner-full-control";

/// Sets on a request that makes an object what the object is stored with.
macro_rules! stored_with {
    ($request:expr, $given:expr, $meta:expr) => {
        $request
            .set_storage_class($given.storage_class($meta))
            .set_server_side_encryption($given.encryption())
            .set_ssekms_key_id($given.kms_key())
            .set_acl($given.acl($meta))
            .set_tagging($given.tagging($meta))
            .set_object_lock_mode($given.lock_mode($meta))
            .set_object_lock_retain_until_date($given.locked_until($meta))
            .set_metadata(Some($crate::store::s3::wire::user($meta)))
            .set_content_type($meta.content_type.clone())
            .set_cache_control($meta.cache_control.clone())
    };
}

/// Sets on a request about an object the key that it is encrypted with, where users bring one, and who pays.
macro_rules! asked_with {
    ($request:expr, $given:expr) => {
        $request
            .set_sse_customer_algorithm($given.key_algorithm())
            .set_sse_customer_key($given.key())
            .set_sse_customer_key_md5($given.key_md5())
            .set_request_payer($given.payer())
    };
}

/// Sets on a copy the key that its source is encrypted with.
macro_rules! source_with {
    ($request:expr, $given:expr) => {
        $request
            .set_copy_source_sse_customer_algorithm($given.key_algorithm())
            .set_copy_source_sse_customer_key($given.key())
            .set_copy_source_sse_customer_key_md5($given.key_md5())
    };
}

/// What users set, ready to be said.
#[derive(Debug)]
pub(super) struct Given {
    terms: Terms,
    key: Option<Key>,
    requester_pays: bool,
}

/// A key that each request brings: both are base64.
struct Key {
    key: String,
    md5: String,
}

/// Shows nothing of it.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Given {
    /// Reads the key, if there is one. `endpoint_url` is where it would be sent.
    pub async fn of(settings: &Settings, endpoint_url: &str) -> Result<Self, SetupError> {
        let mut key = None;
        if let Encryption::Customer(path) = &settings.terms.encryption {
            let wrong = |why: &str| SetupError::CustomerKey {
                path: path.clone(),
                why: why.to_owned(),
            };
            if endpoint_url
                .strip_prefix("http://")
                .is_some_and(|host| !crate::base::host::is_loopback(host))
            {
                return Err(wrong(
                    "it would cross the network in the clear; use an https:// endpoint",
                ));
            }
            let file = path.clone();
            let read = Offload::Pool.run(move || read_key(&file)).await;
            key = Some(read.map_err(|why| wrong(&why))?);
        }
        Ok(Self {
            terms: settings.terms.clone(),
            key,
            requester_pays: settings.requester_pays,
        })
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Says in headers what [`stored_with`] sets.
    pub fn say_stored(&self, meta: &Meta, said: &mut Said) {
        let mut say = |name: &'static str, value: Option<String>| {
            said.extend(value.map(|value| (name.into(), value)));
        };
        let class = self.storage_class(meta);
        say(
            "x-amz-storage-class",
            class.map(|class| class.as_str().to_owned()),
        );
        let encryption = self.encryption();
        say(
            "x-amz-server-side-encryption",
            encryption.map(|how| how.as_str().to_owned()),
        );
        say(
            "x-amz-server-side-encryption-aws-kms-key-id",
            self.kms_key(),
        );
        say(
            "x-amz-acl",
            self.acl(meta).map(|acl| acl.as_str().to_owned()),
        );
        say("x-amz-tagging", self.tagging(meta));
        let mode = self.lock_mode(meta);
        say(
            "x-amz-object-lock-mode",
            mode.map(|mode| mode.as_str().to_owned()),
        );
        let until = self.locked_until(meta);
        say(
            "x-amz-object-lock-retain-until-date",
            until.and_then(|until| until.fmt(Format::DateTime).ok()),
        );
        // What the SDK takes for bytes of no kind.
        let kind = meta
            .content_type
            .as_deref()
            .unwrap_or("application/octet-stream");
        say("content-type", Some(kind.to_owned()));
        say("cache-control", meta.cache_control.clone());
        let user = meta.user.iter();
        said.extend(user.map(|(name, value)| (format!("x-amz-meta-{name}").into(), value.clone())));
    }

    /// Says in headers what [`asked_with`] sets.
    pub fn say_asked(&self, said: &mut Said) {
        let mut say = |name: &'static str, value: Option<String>| {
            said.extend(value.map(|value| (name.into(), value)));
        };
        say(
            "x-amz-server-side-encryption-customer-algorithm",
            self.key_algorithm(),
        );
        say("x-amz-server-side-encryption-customer-key", self.key());
        say(
            "x-amz-server-side-encryption-customer-key-md5",
            self.key_md5(),
        );
        let payer = self.payer();
        say(
            "x-amz-request-payer",
            payer.map(|payer| payer.as_str().to_owned()),
        );
    }

    pub fn storage_class(&self, meta: &Meta) -> Option<StorageClass> {
        let class = self.terms.storage_class.as_deref()?;
        (!meta.is_own && class != "STANDARD").then(|| class.into())
    }

    pub fn encryption(&self) -> Option<ServerSideEncryption> {
        match &self.terms.encryption {
            Encryption::Aes256 => Some(ServerSideEncryption::Aes256),
            Encryption::Kms(_) => Some(ServerSideEncryption::AwsKms),
            Encryption::Bucket | Encryption::Customer(_) => None,
        }
    }

    pub fn kms_key(&self) -> Option<String> {
        match &self.terms.encryption {
            Encryption::Kms(key) => key.clone(),
            _ => None,
        }
    }

    /// Returns whether an ETag says anything of the content.
    pub fn has_plain_etags(&self) -> bool {
        matches!(
            self.terms.encryption,
            Encryption::Bucket | Encryption::Aes256
        )
    }

    /// An object of the agent's own is for its own eyes; but where the bucket is another account's, its policy may refuse
    /// whatever does not come with the grant to its owner.
    pub fn acl(&self, meta: &Meta) -> Option<ObjectCannedAcl> {
        let may = |acl: &&str| !meta.is_own || *acl == FOR_THE_OWNER;
        let acl = self.terms.acl.as_deref().filter(may)?;
        Some(acl.into())
    }

    pub fn tagging(&self, meta: &Meta) -> Option<String> {
        const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'_')
            .remove(b'.')
            .remove(b'~');
        let encoded = |text: &str| utf8_percent_encode(text, PLAIN).to_string();
        let one =
            |(name, value): &(String, String)| format!("{}={}", encoded(name), encoded(value));
        let tags: Vec<_> = self.terms.tags.iter().map(one).collect();
        (!meta.is_own && !tags.is_empty()).then(|| tags.join("&"))
    }

    /// Without it a copy has its source's tags, of which a store that has no tags need not be told.
    pub fn tagging_directive(&self, meta: &Meta) -> Option<TaggingDirective> {
        self.tagging(meta).map(|_| TaggingDirective::Replace)
    }

    pub fn lock_mode(&self, meta: &Meta) -> Option<ObjectLockMode> {
        let lock = self.terms.lock.filter(|_| !meta.is_own)?;
        Some(match lock.mode {
            LockMode::Governance => ObjectLockMode::Governance,
            LockMode::Compliance => ObjectLockMode::Compliance,
        })
    }

    pub fn locked_until(&self, meta: &Meta) -> Option<DateTime> {
        let lock = self.terms.lock.filter(|_| !meta.is_own)?;
        let now = Clock::Real.now().wall_ns / 1_000_000_000;
        Some(DateTime::from_secs(now + lock.keep.as_secs() as i64))
    }

    pub fn key_algorithm(&self) -> Option<String> {
        self.key.as_ref().map(|_| "AES256".to_owned())
    }

    pub fn key(&self) -> Option<String> {
        self.key.as_ref().map(|key| key.key.clone())
    }

    pub fn key_md5(&self) -> Option<String> {
        self.key.as_ref().map(|key| key.md5.clone())
    }

    pub fn payer(&self) -> Option<RequestPayer> {
        self.requester_pays.then_some(RequestPayer::Requester)
    }
}

fn read_key(path: &Path) -> Result<Key, String> {
    let mode = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .permissions()
        .mode();
    if mode & 0o004 != 0 {
        return Err("everybody may read it; run `chmod 600` on it".to_owned());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    let raw = match <[u8; 32]>::try_from(bytes.as_slice()) {
        Ok(raw) => raw.to_vec(),
        Err(_) => aws_smithy_types::base64::decode(text)
            .ok()
            .filter(|raw| raw.len() == 32)
            .ok_or("it holds neither 32 bytes nor their base64")?,
    };
    Ok(Key {
        key: aws_smithy_types::base64::encode(&raw),
        md5: aws_smithy_types::base64::encode(md5::Md5::digest(&raw)),
    })
}
