//! The plugin and its configuration in the runtime's folders, put there and taken away.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::configuration::VERSIONS;

/// Name of the plugin's program, and its `type`.
pub const PLUGIN: &str = "ringway-cni";

/// What is put where.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Where the runtime looks for configurations.
    pub configuration_directory: PathBuf,
    /// Name of ours there; the runtime takes the first in order.
    pub configuration_name: String,
    /// Where the runtime looks for plugins.
    pub program_directory: PathBuf,
    /// Where control serves.
    pub socket: PathBuf,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct InstallError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Installation {
    /// As [`Self::install`], of the program beside the one that runs.
    pub fn install_own(&self) -> Result<(), InstallError> {
        let own = std::env::current_exe().map_err(|source| InstallError {
            path: PLUGIN.into(),
            source,
        })?;
        self.install(&own.with_file_name(PLUGIN))
    }

    /// Puts `program` and then the configuration there: from the moment a runtime sees the one, the other is there. Each
    /// takes the place of an older one at once.
    pub fn install(&self, program: &Path) -> Result<(), InstallError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| InstallError { path, source }
        };
        fs::create_dir_all(&self.program_directory).map_err(at(&self.program_directory))?;
        fs::create_dir_all(&self.configuration_directory).map_err(at(&self.configuration_directory))?;
        let bytes = fs::read(program).map_err(at(program))?;
        let place = self.program_directory.join(PLUGIN);
        replace(&place, &bytes, 0o755).map_err(at(&place))?;
        let text = format!("{:#}\n", self.configuration());
        let place = self.configuration_directory.join(&self.configuration_name);
        replace(&place, text.as_bytes(), 0o644).map_err(at(&place))
    }

    /// Takes both away, the configuration first. What is not there is left at that.
    pub fn uninstall(&self) -> Result<(), InstallError> {
        let places = [
            self.configuration_directory.join(&self.configuration_name),
            self.program_directory.join(PLUGIN),
        ];
        for path in places {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(InstallError { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The configuration list.
    pub fn configuration(&self) -> Value {
        json!({
            "cniVersion": "1.1.0",
            "cniVersions": VERSIONS,
            "name": "ringway",
            "plugins": [{
                "type": PLUGIN,
                "socket": self.socket,
                "capabilities": {"ips": true, "mac": true},
            }],
        })
    }
}

/// Written beside it, synced, renamed: whoever looks sees the old file or the new one. A hidden name is none that a runtime
/// takes for a configuration.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(PLUGIN);
    let draft = directory.join(format!(".{name}.new"));
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_uninstalled() {
        let folder = tempfile::tempdir().unwrap();
        let installation = Installation {
            configuration_directory: folder.path().join("net.d"),
            configuration_name: "10-ringway.conflist".into(),
            program_directory: folder.path().join("bin"),
            socket: "/run/ringway/cni.sock".into(),
        };
        let program = folder.path().join("program");
        for contents in ["one", "two"] {
            fs::write(&program, contents).unwrap();
            installation.install(&program).unwrap();
            let placed = folder.path().join("bin/ringway-cni");
            assert_eq!(fs::read_to_string(&placed).unwrap(), contents);
            assert_eq!(fs::metadata(&placed).unwrap().permissions().mode() & 0o777, 0o755);
        }
        let list = fs::read(folder.path().join("net.d/10-ringway.conflist")).unwrap();
        let list: Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(list["plugins"][0]["type"], "ringway-cni");
        assert_eq!(list["plugins"][0]["socket"], "/run/ringway/cni.sock");
        for directory in ["net.d", "bin"] {
            assert_eq!(
                fs::read_dir(folder.path().join(directory)).unwrap().count(),
                1,
                "no draft stays"
            );
        }
        installation.uninstall().unwrap();
        installation.uninstall().unwrap();
        assert_eq!(fs::read_dir(folder.path().join("net.d")).unwrap().count(), 0);
        let missing = installation.install(Path::new("/no/such/program")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/program"));
    }
}
