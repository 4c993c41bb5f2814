//! A store in an S3 bucket: conditional puts, gets and heads, path style, so that every S3 server will do. A user of the folder
//! pays nothing for it: the client is made when a bucket is opened.

use std::env;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use crate::error::{OpenError, StoreError};
use crate::store::Put;

/// Tries of one call by the SDK, with its own backoff, when the server is busy or away.
const TRIES_MAX: u32 = 5;

/// Tries of a put that met another put of the same key in flight (409).
const CONFLICTS_MAX: u32 = 20;

/// Longest wait for a connection, and for the next bytes of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Wait after such a conflict, in milliseconds.
const CONFLICT_WAIT_MS: u64 = 20;

#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    client: Client,
    name: Arc<str>,
    /// In front of every path; empty or ending with `/`.
    prefix: Arc<str>,
}

/// How to reach an S3 server. Its secrets are not shown by `Debug`.
#[derive(Clone, Default)]
pub struct S3Access {
    /// Address of the server; `None`: Amazon's for the region.
    pub endpoint: Option<String>,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl S3Access {
    /// Reads `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, `AWS_REGION` or `AWS_DEFAULT_REGION` (without both: us-east-1),
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    ///
    /// # Errors
    /// [`OpenError::Credentials`] naming the variable that is missing.
    pub fn from_environment() -> Result<Self, OpenError> {
        let needed = |name: &'static str| env::var(name).map_err(|_| OpenError::Credentials { name });
        Ok(Self {
            endpoint: env::var("AWS_ENDPOINT_URL_S3").or_else(|_| env::var("AWS_ENDPOINT_URL")).ok(),
            region: env::var("AWS_REGION").or_else(|_| env::var("AWS_DEFAULT_REGION")).unwrap_or_else(|_| "us-east-1".into()),
            access_key_id: needed("AWS_ACCESS_KEY_ID")?,
            secret_access_key: needed("AWS_SECRET_ACCESS_KEY")?,
            session_token: env::var("AWS_SESSION_TOKEN").ok(),
        })
    }
}

impl fmt::Debug for S3Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Access").field("endpoint", &self.endpoint).field("region", &self.region).finish_non_exhaustive()
    }
}

impl Bucket {
    /// `rest` is `location` without `s3://`.
    pub(crate) fn open(location: &str, rest: &str, access: S3Access) -> Result<Self, OpenError> {
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(OpenError::Location { location: location.to_owned() });
        }
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let S3Access { endpoint, region, access_key_id, secret_access_key, session_token } = access;
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(Credentials::new(access_key_id, secret_access_key, session_token, None, "environment"))
            .region(Region::new(region))
            .force_path_style(true)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES_MAX))
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build())
            // Content is checked by its BLAKE3 digest; many servers know none of the newer checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Self { client: Client::from_conf(config.build()), name: name.into(), prefix: prefix.into() })
    }

    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    pub(crate) async fn put(&self, path: &str, bytes: Bytes) -> Result<Put, StoreError> {
        self.put_stream(path, || async { Ok(ByteStream::from(bytes.clone())) }).await
    }

    pub(crate) async fn put_file(&self, path: &str, file: &Path) -> Result<Put, StoreError> {
        let body = || async {
            let opened = ByteStream::from_path(file).await;
            opened.map_err(|error| StoreError::file("read", file, std::io::Error::other(error)))
        };
        self.put_stream(path, body).await
    }

    async fn put_stream<B, F>(&self, path: &str, body: B) -> Result<Put, StoreError>
    where
        B: Fn() -> F,
        F: Future<Output = Result<ByteStream, StoreError>>,
    {
        let mut conflicts = 0;
        loop {
            let request = self.client.put_object().bucket(&*self.name).key(self.key(path)).if_none_match("*").body(body().await?);
            let error = match request.send().await {
                Ok(_) => return Ok(Put::Stored),
                Err(error) => error,
            };
            match status(&error) {
                Some(412) => return Ok(Put::Present),
                // Two puts of one key at the same time: the server asks to try again, then one of them finds the other's.
                Some(409) if conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    tokio::time::sleep(Duration::from_millis(CONFLICT_WAIT_MS)).await;
                }
                _ => return Err(self.failed("write", path, &error)),
            }
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        let Some(body) = self.body(path).await? else { return Ok(None) };
        match body.collect().await {
            Ok(bytes) => Ok(Some(bytes.into_bytes())),
            Err(error) => Err(self.broken(path, &error)),
        }
    }

    pub(crate) async fn get_to_file(&self, path: &str, file: &Path) -> Result<bool, StoreError> {
        let Some(mut body) = self.body(path).await? else { return Ok(false) };
        let failed = |error| StoreError::file("write", file, error);
        let mut target = tokio::fs::File::create(file).await.map_err(failed)?;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| self.broken(path, &error))?;
            target.write_all(&piece).await.map_err(failed)?;
        }
        target.flush().await.map_err(failed)?;
        Ok(true)
    }

    async fn body(&self, path: &str) -> Result<Option<ByteStream>, StoreError> {
        match self.client.get_object().bucket(&*self.name).key(self.key(path)).send().await {
            Ok(found) => Ok(Some(found.body)),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => Ok(None),
            Err(error) => Err(self.failed("read", path, &error)),
        }
    }

    pub(crate) async fn head(&self, path: &str) -> Result<Option<u64>, StoreError> {
        match self.client.head_object().bucket(&*self.name).key(self.key(path)).send().await {
            Ok(found) => Ok(Some(found.content_length().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(None),
            Err(error) => Err(self.failed("inspect", path, &error)),
        }
    }

    pub(crate) async fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{}/", self.key(path));
        let (mut names, mut further) = (Vec::new(), None);
        loop {
            let request = self.client.list_objects_v2().bucket(&*self.name).prefix(&prefix).delimiter("/").set_continuation_token(further);
            let page = request.send().await.map_err(|error| self.failed("list", path, &error))?;
            let keys = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(&prefix));
            names.extend(keys.map(str::to_owned));
            further = page.next_continuation_token().map(str::to_owned);
            if further.is_none() {
                return Ok(names);
            }
        }
    }

    pub(crate) async fn remove(&self, path: &str) -> Result<(), StoreError> {
        let request = self.client.delete_object().bucket(&*self.name).key(self.key(path));
        request.send().await.map(drop).map_err(|error| self.failed("remove", path, &error))
    }

    fn failed<E>(&self, action: &'static str, path: &str, error: &SdkError<E>) -> StoreError
    where
        E: std::error::Error + aws_sdk_s3::error::ProvideErrorMetadata + 'static,
    {
        let transient = match status(error) {
            None => !matches!(error, SdkError::ConstructionFailure(_)),
            Some(code) => code >= 500 || matches!(code, 408 | 409 | 429),
        };
        let known = error.as_service_error().and_then(|error| error.meta().code().map(str::to_owned));
        let message = match (known, status(error)) {
            (Some(code), Some(status)) => {
                format!("{code} (status {status}, request {})", error.request_id().unwrap_or("without id"))
            }
            _ => DisplayErrorContext(error).to_string(),
        };
        StoreError::Bucket { action, bucket: self.name.to_string(), path: self.key(path), message, transient }
    }

    /// The connection broke while the content came.
    fn broken(&self, path: &str, error: &aws_sdk_s3::primitives::ByteStreamError) -> StoreError {
        let (bucket, path) = (self.name.to_string(), self.key(path));
        StoreError::Bucket { action: "read", bucket, path, message: error.to_string(), transient: true }
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}
