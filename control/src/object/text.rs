//! Strings that many objects share: a cluster's labels, namespaces and nodes are few, the objects that name them many.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// An immutable string that is cheap to clone. Equal, ordered and hashed as its text.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

impl Text {
    /// The one copy of `text` that everyone who asks for it shares.
    pub fn shared(text: &str) -> Self {
        static POOL: Pool<str> = Pool::new();
        Self(POOL.share(text))
    }

    /// Its characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str> + ?Sized> From<&T> for Text {
    fn from(text: &T) -> Self {
        Self(Arc::from(text.as_ref()))
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Arc::from(text))
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0.as_ref().to_owned()
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<Text> for String {
    fn eq(&self, other: &Text) -> bool {
        self == other.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

/// Values of which one copy is kept while somebody uses it.
pub(super) struct Pool<T: ?Sized + 'static>(Mutex<Option<Shelf<T>>>);

struct Shelf<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// How many values make it worth looking for those that nobody uses any more.
    sweep_at: usize,
}

impl<T: ?Sized + Eq + Hash> Pool<T>
where
    Arc<T>: for<'a> From<&'a T>,
{
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The copy of `value` that is there, or the first one.
    pub(super) fn share(&self, value: &T) -> Arc<T> {
        // A panic elsewhere leaves the set as good as it was.
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = guard.get_or_insert_with(|| Shelf {
            values: HashSet::new(),
            sweep_at: SWEEP_MIN,
        });
        if let Some(there) = shelf.values.get(value) {
            return Arc::clone(there);
        }
        if shelf.values.len() >= shelf.sweep_at {
            shelf.values.retain(|value| Arc::strong_count(value) > 1);
            shelf.sweep_at = SWEEP_MIN.max(shelf.values.len() * 2);
        }
        let made = Arc::from(value);
        shelf.values.insert(Arc::clone(&made));
        made
    }
}

/// Fewer values than this are not worth a sweep.
const SWEEP_MIN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_their_bytes() {
        let (a, b) = (Text::shared("team-1"), Text::shared("team-1"));
        assert!(std::ptr::eq(a.as_str(), b.as_str()));
        assert_eq!(a, Text::from("team-1"));
        assert_eq!(a, "team-1");
        assert_eq!(format!("{a:>8}|{a:?}"), "  team-1|\"team-1\"");
    }

    #[test]
    fn what_nobody_uses_is_swept() {
        let pool: Pool<str> = Pool::new();
        let kept = pool.share("kept");
        for n in 0..SWEEP_MIN * 3 {
            pool.share(&n.to_string());
        }
        let guard = pool.0.lock().unwrap();
        let values = &guard.as_ref().unwrap().values;
        assert!(values.len() <= SWEEP_MIN + 1, "{}", values.len());
        assert!(values.contains(&kept));
    }
}
