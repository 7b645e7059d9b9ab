//! What is wrong with the configuration, and where: `config.toml:12: retry.base: …`.

use std::fmt;

/// One step into the configuration's tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root to a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The path of these keys.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(keys.into_iter().map(|k| Step::Key(k.to_owned())).collect())
    }

    /// Reads `store.url`, where no key has a dot of its own.
    pub fn dotted(keys: &str) -> Self {
        Self::of(keys.split('.').filter(|k| !k.is_empty()))
    }

    pub fn key(&self, key: &str) -> Self {
        self.join(Step::Key(key.to_owned()))
    }

    pub fn join(&self, step: Step) -> Self {
        Self([&self.0[..], &[step]].concat())
    }

    pub fn concat(&self, below: &Self) -> Self {
        Self([&self.0[..], &below.0[..]].concat())
    }

    pub fn starts_with(&self, above: &Self) -> bool {
        self.0.starts_with(&above.0)
    }

    /// The key that the path ends in, unless that is a place in a list.
    pub fn last_key(&self) -> Option<&str> {
        match self.0.last() {
            Some(Step::Key(key)) => Some(key),
            _ => None,
        }
    }
}

/// As one would write it in TOML: `templates."order.*".to`, `types[1]`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if n == 0 { "" } else { "." };
                    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
                    if !key.is_empty() && key.bytes().all(bare) {
                        write!(f, "{dot}{key}")?;
                    } else {
                        write!(f, "{dot}{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where a value was written. The order is that in which faults are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// Lines and columns count from 1; a column is only given for broken syntax. There is no
    /// line for a key that would have to be added.
    File {
        file: String,
        line: Option<usize>,
        column: Option<usize>,
    },
    /// An environment variable.
    Env(String),
    /// Nowhere: it is built in.
    Default,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => {
                f.write_str(file)?;
                for number in [line, column].into_iter().flatten() {
                    write!(f, ":{number}")?;
                }
                Ok(())
            }
            Self::Env(name) => f.write_str(name),
            Self::Default => f.write_str("built-in defaults"),
        }
    }
}

/// One fault, and where to mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Located {
    pub at: At,
    /// The key from the root, as in `sinks.email.smtp.port`; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with the configuration, in the order of the file's lines, the
/// environment after it. Displays as one line for each fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Located>);

impl Faults {
    pub(super) fn sorted(mut faults: Vec<Located>) -> Self {
        faults.sort();
        faults.dedup();
        Self(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
