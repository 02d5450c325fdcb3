//! Where a running server reads its configuration again.

use std::fmt;

use crate::config::Config;

type Read = dyn FnMut() -> Result<Config, String> + Send;

/// What gives the configuration anew, or says why it cannot. It may wait: for a disk, for a name server.
pub struct Source {
    name: String,
    read: Box<Read>,
}

impl Source {
    /// A configuration that people know by `name`.
    pub fn new(name: String, read: Box<Read>) -> Source {
        Source { name, read }
    }

    /// What people know it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The configuration as it is now.
    pub fn read(&mut self) -> Result<Config, String> {
        (self.read)()
    }
}

impl Default for Source {
    /// Of a server that was not told.
    fn default() -> Source {
        let nowhere = || Err("this configuration was not read from anywhere: it cannot be read again".to_owned());
        Source::new("a program's own".to_owned(), Box::new(nowhere))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}
