//! The bucket behind the endpoint: S3's operations on a folder and an index.
//!
//! One bucket. Objects are plain files where that is possible ([`files`]), the index ([`index`]) decides what exists.
//! A write takes its body in without a lock, then checks its conditions, renames and writes its row under the index's
//! lock: conditions are atomic, and a reader never sees half an object. A read looks up and opens under the lock and
//! then reads the open file, which a later write does not change.
//!
//! What S3 has and this has not (versions, encryption, locks, tags, access lists) is refused with `NotImplemented`
//! where leaving it out would break a promise, and ignored nowhere else but for tags and access lists.
//!
//! What this does not protect against: a power cut (nothing is synced), and a hand that edits the files of objects.

mod condition;
mod copy;
mod files;
mod index;
mod intake;
mod list;
mod multipart;
mod objects;
mod reading;
mod sums;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use async_trait::async_trait;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, BucketLocationConstraint,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput,
    DeleteObjectsInput, DeleteObjectsOutput, GetBucketLocationInput, GetBucketLocationOutput,
    GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput,
    HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, PutObjectInput, PutObjectOutput,
    Timestamp, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use self::files::Files;
use self::index::Index;
use crate::base::clock::Clock;
use crate::base::offload::Offload;

/// The region that the bucket says it is in: the one that clients take for an endpoint without regions.
const REGION: &str = "us-east-1";

/// The bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage(Arc<State>);

/// What all requests share.
#[derive(Debug)]
struct State {
    bucket: String,
    files: Files,
    index: Mutex<Index>,
}

impl State {
    fn index(&self) -> MutexGuard<'_, Index> {
        // A panic elsewhere does not make the index wrong: SQLite's transactions do not depend on ours.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage {
    /// Opens the bucket that lies in `dir`, or makes an empty one. Blocks.
    pub fn open(dir: &Path, bucket: &str) -> anyhow::Result<Self> {
        if !s3s::path::check_bucket_name(bucket) {
            anyhow::bail!("`{bucket}` is not a name that a bucket can have");
        }
        let shown = dir.display();
        let files = Files::open(dir).with_context(|| format!("could not open `{shown}`"))?;
        let index = Index::open(&dir.join(files::OWN).join("index.db"), now_ns())
            .with_context(|| format!("could not open the index of `{shown}`"))?;
        // Parts whose rows were never written: their client has not been told that they were stored.
        for name in files.parts()? {
            if !index.is_part(&name)? {
                files.remove_part(&name)?;
            }
        }
        Ok(Self(Arc::new(State {
            bucket: bucket.to_owned(),
            files,
            index: Mutex::new(index),
        })))
    }

    /// Lists the keys of all objects, in order. Blocks.
    pub fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = Vec::new();
        self.0.index().scan(b"", |object| {
            keys.push(object.key);
            true
        })?;
        Ok(keys)
    }

    /// Reads an object whole; `None` if there is none. Blocks.
    pub fn read(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let mut file = {
            let index = self.0.index();
            let Some(object) = index.object(key)? else {
                return Ok(None);
            };
            self.0.files.read(key, object.place)?
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Lists the open multipart uploads as pairs of key and upload id, in order. Blocks.
    pub fn open_uploads(&self) -> anyhow::Result<Vec<(String, String)>> {
        let uploads = self.0.index().uploads()?;
        Ok(uploads.into_iter().map(|u| (u.key, u.id)).collect())
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.0)
    }

    /// Runs work on files and index on the blocking pool.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&State) -> S3Result<R> + Send + 'static,
    ) -> S3Result<R> {
        let state = self.state();
        Offload::Pool.run(move || work(&state)).await
    }

    fn check_bucket(&self, name: &str) -> S3Result {
        if name == self.0.bucket {
            Ok(())
        } else {
            Err(s3_error!(
                NoSuchBucket,
                "The specified bucket does not exist."
            ))
        }
    }
}

/// Returns bytes that nobody can guess, from the operating system.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Nanoseconds since the epoch.
fn now_ns() -> i64 {
    Clock::Real.now().wall_ns
}

/// Returns the stamp as the protocol's type.
fn timestamp(ns: i64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(0)))
}

/// Returns an error with status 400 whose code the protocol library does not list.
fn bad_request(code: &'static str, message: &'static str) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InvalidRequest);
    let mut error = S3Error::with_message(code, message);
    error.set_status_code(hyper::StatusCode::BAD_REQUEST);
    error
}

/// Refuses what a client asks for and this store would have to ignore.
fn refuse_features(asked: &[(&str, bool)]) -> S3Result {
    match asked.iter().find(|(_, is_asked)| *is_asked) {
        Some((feature, _)) => Err(s3_error!(
            NotImplemented,
            "This endpoint does not have {feature}."
        )),
        None => Ok(()),
    }
}

/// Refuses a version other than the only one.
fn check_version(version: Option<&str>) -> S3Result {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion)),
    }
}

type Request<T> = S3Request<T>;
type Answer<T> = S3Result<S3Response<T>>;

#[async_trait]
impl S3 for Storage {
    async fn head_bucket(&self, req: Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.check_bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput {
            bucket_region: Some(REGION.to_owned()),
            ..Default::default()
        }))
    }

    async fn list_buckets(&self, _: Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let created_ns = self.blocking(|state| Ok(state.index().created_ns)).await?;
        let bucket = Bucket {
            name: Some(self.0.bucket.clone()),
            creation_date: Some(timestamp(created_ns)),
            ..Default::default()
        };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(vec![bucket]),
            ..Default::default()
        }))
    }

    async fn get_bucket_location(
        &self,
        req: Request<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        self.check_bucket(&req.input.bucket)?;
        // S3 says the empty location for us-east-1.
        Ok(S3Response::new(GetBucketLocationOutput {
            location_constraint: Some(BucketLocationConstraint::from(String::new())),
        }))
    }

    async fn put_object(&self, req: Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        objects::put(self, req).await
    }

    async fn get_object(&self, req: Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        objects::get(self, req.input).await
    }

    async fn head_object(&self, req: Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        objects::head(self, req.input).await
    }

    async fn delete_object(&self, req: Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        objects::delete(self, req.input).await
    }

    async fn delete_objects(
        &self,
        req: Request<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        objects::delete_many(self, req.input).await
    }

    async fn copy_object(&self, req: Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        copy::object(self, req).await
    }

    async fn list_objects(&self, req: Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        list::objects(self, req.input).await
    }

    async fn list_objects_v2(
        &self,
        req: Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        list::objects_v2(self, req.input).await
    }

    async fn create_multipart_upload(
        &self,
        req: Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        multipart::create(self, req.input).await
    }

    async fn upload_part(&self, req: Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        multipart::put_part(self, req).await
    }

    async fn upload_part_copy(
        &self,
        req: Request<UploadPartCopyInput>,
    ) -> Answer<UploadPartCopyOutput> {
        multipart::copy_part(self, req.input).await
    }

    async fn complete_multipart_upload(
        &self,
        req: Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        multipart::complete(self, req.input).await
    }

    async fn abort_multipart_upload(
        &self,
        req: Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        multipart::abort(self, req.input).await
    }

    async fn list_parts(&self, req: Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        list::parts(self, req.input).await
    }

    async fn list_multipart_uploads(
        &self,
        req: Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        list::uploads(self, req.input).await
    }
}
