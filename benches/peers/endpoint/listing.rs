//! Both listings.

use std::fmt::Write as _;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::http::request::Parts;

use super::{Site, query, xml};

/// Keys of one page of a listing.
const PAGE: usize = 1000;

/// Answers both listings: each client finds the words of the one that it asked for.
pub fn list(site: &Site, bucket: &str, head: &Parts) -> Response<Full<Bytes>> {
    let word = |name| query(head, name).filter(|word| !word.is_empty());
    let (prefix, delimiter) = (word("prefix").unwrap_or_default(), word("delimiter"));
    let after = word("continuation-token")
        .or_else(|| word("start-after"))
        .or_else(|| word("marker"))
        .unwrap_or_default();
    let most = word("max-keys").and_then(|most| most.parse().ok());
    let most = most.unwrap_or(PAGE).min(PAGE);
    let objects = site.objects.borrow();
    let start = format!("/{bucket}/");
    let (mut found, mut count, mut last, mut is_cut) = (String::new(), 0, String::new(), false);
    for (path, object) in objects.range(format!("{start}{prefix}")..) {
        let Some(key) = path
            .strip_prefix(&start)
            .filter(|key| key.starts_with(&prefix))
        else {
            break;
        };
        let rest = &key[prefix.len()..];
        let folder = delimiter
            .as_ref()
            .and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()))
            .map(|end| &key[..prefix.len() + end]);
        let shown = folder.unwrap_or(key);
        if shown <= after.as_str() || shown == last {
            continue;
        }
        if count == most {
            is_cut = true;
            break;
        }
        count += 1;
        shown.clone_into(&mut last);
        let _ = match folder {
            Some(folder) => write!(
                found,
                "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
            ),
            None => write!(
                found,
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>&quot;{}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                object.etag.to_str().unwrap_or_default().trim_matches('"'),
                object.len
            ),
        };
    }
    let next = if is_cut {
        format!(
            "<NextContinuationToken>{last}</NextContinuationToken><NextMarker>{last}</NextMarker>"
        )
    } else {
        String::new()
    };
    xml(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{bucket}</Name>\
         <Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys>\
         <IsTruncated>{is_cut}</IsTruncated>{next}{found}</ListBucketResult>"
    ))
}
