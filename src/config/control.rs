//! Where the control socket is: as it is written, and where nothing is.

use std::env;
use std::path::{Path, PathBuf};

use super::Listen;
use super::error::Flaw;
use crate::proxy::policy::Address;

/// What a default path begins and ends with: `hawkey-8080.sock`.
const DEFAULT_NAME: (&str, &str) = ("hawkey-", ".sock");

/// Where the control socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// In the [`default_folder`], named by the first listener.
    #[default]
    Default,
    /// Nowhere.
    Off,
    /// Where it is said.
    At(PathBuf),
}

impl Control {
    /// The path, if the first listener is this one. `None` if there is none, or if the kernel chooses the listener's port.
    pub fn path(&self, first: Option<&Listen>) -> Option<PathBuf> {
        match self {
            Control::Off => None,
            Control::At(path) => Some(path.clone()),
            Control::Default => default_name(first?).map(|name| default_folder().join(name)),
        }
    }
}

/// `"off"`, or an absolute path: a command that looks for the socket may be somewhere else.
pub(super) fn control(text: &str) -> Result<Control, Flaw> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if text == "off" {
        Ok(Control::Off)
    } else if Path::new(path).is_absolute() {
        Ok(Control::At(path.into()))
    } else {
        let flaw = Flaw::new(format!("control: `{text}` is not an absolute path"));
        Err(flaw.help("as in \"/run/hawkey.sock\"; \"off\" for no control socket"))
    }
}

/// `$XDG_RUNTIME_DIR`, or `/run` where there is none.
pub fn default_folder() -> PathBuf {
    env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()).map_or_else(|| "/run".into(), PathBuf::from)
}

/// Every path in the [`default_folder`] that may be a control socket.
pub fn found() -> Vec<PathBuf> {
    let (front, back) = DEFAULT_NAME;
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| {
            name.len() > front.len() + back.len() && name.starts_with(front) && name.ends_with(back)
        })
    };
    let entries = default_folder().read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(named).collect()
}

/// By the port of a TCP listener, by the name of a Unix listener's file without its ending, or by the name of a passed socket.
fn default_name(first: &Listen) -> Option<String> {
    let name = match first {
        Listen::EveryAddress(0) => return None,
        Listen::EveryAddress(port) => port.to_string(),
        Listen::Address(Address::Tcp(address)) if address.port() == 0 => return None,
        Listen::Address(Address::Tcp(address)) => address.port().to_string(),
        Listen::Address(Address::Unix(path)) => path.file_stem()?.to_str()?.to_owned(),
        Listen::Passed(name) => name.clone(),
    };
    let (front, back) = DEFAULT_NAME;
    Some(format!("{front}{name}{back}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_named_by_the_first_listener() {
        for (listen, name) in [
            (":8080", Some("hawkey-8080.sock")),
            ("[::1]:81", Some("hawkey-81.sock")),
            ("127.0.0.1:0", None),
            (":0", None),
            ("unix:/run/app/web.sock", Some("hawkey-web.sock")),
            ("systemd:site", Some("hawkey-site.sock")),
        ] {
            let config = crate::Config::new().listen(listen).unwrap();
            assert_eq!(default_name(&config.listen[0]).as_deref(), name, "{listen}");
        }
    }

    #[test]
    fn a_path_is_absolute_or_off() {
        assert_eq!(control("off"), Ok(Control::Off));
        assert_eq!(control("/run/a.sock"), Ok(Control::At("/run/a.sock".into())));
        assert_eq!(control("unix:/run/a.sock"), Ok(Control::At("/run/a.sock".into())));
        for text in ["", "a.sock", "none", "unix:a"] {
            assert!(control(text).is_err(), "{text}");
        }
        assert_eq!(Control::At("/a".into()).path(None), Some("/a".into()));
        assert_eq!((Control::Off.path(None), Control::Default.path(None)), (None, None));
    }
}
