//! What follows from what a store does and does not do, in plain words. Says nothing of what changes nothing here.

use crate::base::terms::Terms;
use crate::commands::check::Finding;
use crate::store::features::{Checksum, Features};

/// Tells what a probe has found; one line if all is well.
pub(super) fn told(features: &Features, terms: &Terms) -> Vec<Finding> {
    let mut found = vec![checksums(features)];
    let warnings = [
        (
            features.put_if_absent && features.put_if_match,
            "ignores conditional writes: the lease is advisory, run one agent only",
        ),
        (
            features.copy,
            "does not copy: equal and renamed files are sent again",
        ),
        (
            features.copy_if_match || !features.copy,
            "ignores conditions of copies: what was copied is compared afterwards",
        ),
        (
            features.part_copy || !features.copy || !features.multipart,
            "does not copy by parts: files above 5 GiB are sent again instead",
        ),
        (
            features.multipart,
            "takes no uploads by parts: large files cannot be sent",
        ),
        (
            features.list_parts || !features.multipart,
            "cannot list parts: resumed uploads trust their notes",
        ),
        (
            features.list_uploads || !features.multipart,
            "cannot list open uploads: one whose beginning was not answered stays",
        ),
        (
            features.delete_many,
            "has no DeleteObjects: one request per delete",
        ),
        (
            features.metadata,
            "drops user metadata: times and modes are in the state folder only",
        ),
        (
            features.exact_keys,
            "changes letters in keys: names that differ only in them are one object",
        ),
        (
            features.tags || terms.tags.is_empty(),
            "takes no tags: those of the config are refused or lost",
        ),
    ];
    for (is_well, text) in warnings {
        if !is_well {
            found.push(Finding::warn(format!("the store {text}")));
        }
    }
    found
}

fn checksums(features: &Features) -> Finding {
    const AGAIN: &str = "large uploads are looked at once more";
    let name = match features.checksum {
        Checksum::Crc64 => "CRC64NVME",
        Checksum::Crc32 => "CRC32",
        Checksum::Md5 => "MD5",
        Checksum::None => {
            return Finding::warn(format!("the store takes no checksums: {AGAIN}"));
        }
    };
    if features.verifies {
        Finding::ok(format!("the store checks {name} on every upload"))
    } else {
        Finding::warn(format!("the store does not compare {name}: {AGAIN}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::Grade;

    #[test]
    fn where_all_is_well_one_line_says_so() {
        let plain = Terms::default();
        let found = told(&Features::ALL, &plain);
        assert_eq!(
            found,
            [Finding::ok("the store checks CRC64NVME on every upload")]
        );
        // What nothing here depends on is not worth a word.
        let enough = Features {
            tags: false,
            is_ordered: false,
            complete_if: false,
            delete_if_match: Some(false),
            ..Features::ALL
        };
        assert_eq!(told(&enough, &plain), found);
        let tagged = Terms {
            tags: vec![("team".to_owned(), "photos".to_owned())],
            ..plain
        };
        assert_eq!(told(&enough, &tagged).len(), 2);
    }

    #[test]
    fn each_thing_that_is_missing_is_one_line_and_of_one_that_implies_another_only_the_first() {
        let nothing = told(&Features::default(), &Terms::default());
        assert!(nothing.iter().all(|one| one.grade == Grade::Warn));
        let texts: Vec<_> = nothing.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(texts.len(), 7, "{texts:#?}");
        assert!(texts.iter().all(|text| text.len() < 84), "{texts:#?}");
        let odd = Features {
            checksum: Checksum::None,
            copy_if_match: false,
            part_copy: false,
            list_parts: false,
            list_uploads: false,
            ..Features::ALL
        };
        assert_eq!(told(&odd, &Terms::default()).len(), 5);
    }
}
