//! The source that reads manifests and follows their changes.

use std::path::PathBuf;

use super::directory::{self, LoadErrors};
use super::watch::Watch;
use super::{Condition, News, Scope, Source};
use crate::object::Objects;

/// Files and directories, watched.
pub struct Manifests {
    paths: Vec<PathBuf>,
    watch: Option<Watch>,
}

/// Why manifests cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// They are wrong.
    #[error(transparent)]
    Load(#[from] LoadErrors),
    /// They cannot be watched.
    #[error("watching the manifests: {0}")]
    Watch(std::io::Error),
}

impl Manifests {
    /// Those at `paths`.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, watch: None }
    }
}

impl Source for Manifests {
    type Error = ManifestsError;

    async fn first(&mut self, objects: &mut Objects) -> Result<(), ManifestsError> {
        // Before the first load, so that no change between the two is missed. What cannot be watched cannot be loaded
        // either, and the load says better why.
        let watch = Watch::start(&self.paths);
        *objects = directory::load(&self.paths)?;
        self.watch = Some(watch.map_err(ManifestsError::Watch)?);
        Ok(())
    }

    async fn next(&mut self, objects: &mut Objects) -> News {
        let Some(watch) = &mut self.watch else {
            return std::future::pending().await;
        };
        watch.changed().await;
        match directory::load(&self.paths) {
            // The same as before, perhaps because a mistake was taken back.
            Ok(read) if read == *objects => News::Unchanged,
            Ok(read) => {
                *objects = read;
                News::Changed(Scope::Whole)
            }
            Err(errors) => {
                for error in &errors.0 {
                    tracing::error!(%error, "bad manifest");
                }
                News::Refused(errors.to_string())
            }
        }
    }

    fn condition(&self) -> Condition {
        Condition {
            is_current: true,
            ..Condition::default()
        }
    }

    fn mends_itself(&self) -> bool {
        false
    }

    fn in_force(&mut self, _: &Objects) {}

    async fn stop(&mut self, _: &Objects) {}
}
