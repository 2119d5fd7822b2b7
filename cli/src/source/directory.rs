//! A package in a folder of the user's.

use std::path::PathBuf;

use super::{Fetched, Order, Source, SourceError};
use crate::failure::Result;

pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Source for Directory {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn fetch(&self, order: &Order) -> Result<Fetched> {
        match order.digest {
            Some(_) => Err(SourceError::NoArchive {
                path: self.path.clone(),
            }
            .into()),
            None => Ok(Fetched::folder(self.path.clone())),
        }
    }
}
