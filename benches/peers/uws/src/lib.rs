//! Empty: only the dependency's sources are used.
