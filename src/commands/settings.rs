//! From what the config says of a bucket to what the store is told.

use crate::base::terms::Terms;
use crate::config::{PathStyle, S3};
use crate::store::s3::{Addressing, Settings};

/// The variables of the environment that keys are taken from: nothing that we start is to inherit them.
pub const KEYS: [&str; 3] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];

/// Returns how the store reaches a bucket of which the config says `s3`, and stores objects there by `terms`.
///
/// What the config leaves open is left to the environment and the AWS profiles, credentials always are.
pub fn of(s3: &S3, terms: &Terms) -> Settings {
    Settings {
        region: s3.region.clone(),
        endpoint_url: s3.endpoint_url.clone(),
        profile: s3.profile.clone(),
        path_style: match s3.path_style {
            PathStyle::Auto => Addressing::Auto,
            PathStyle::Always => Addressing::Path,
            PathStyle::Never => Addressing::Host,
        },
        ca_bundle: s3.ca_bundle.clone(),
        dualstack: s3.dualstack,
        accelerate: s3.accelerate,
        fips: s3.fips,
        requester_pays: s3.requester_pays,
        terms: terms.clone(),
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_config_says_arrives_and_nothing_secret_is_made_up() {
        let s3 = S3 {
            region: Some("eu-central-1".to_owned()),
            endpoint_url: Some("https://s3.example".to_owned()),
            path_style: PathStyle::Never,
            requester_pays: true,
            ..S3::default()
        };
        let terms = Terms {
            storage_class: Some("STANDARD_IA".to_owned()),
            ..Terms::default()
        };
        let settings = of(&s3, &terms);
        assert!(settings.requester_pays && !settings.accelerate);
        assert_eq!(settings.terms, terms);
        assert_eq!(settings.region.as_deref(), Some("eu-central-1"));
        assert_eq!(settings.endpoint_url.as_deref(), Some("https://s3.example"));
        assert_eq!(settings.path_style, Addressing::Host);
        assert!(settings.profile.is_none() && settings.credentials.is_none());
    }
}
