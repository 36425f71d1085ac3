// Package software keeps keys in encrypted files: the default of development,
// and never more than that, for a file can be copied without a trace.
//
// A key is PKCS #8 in PEM, encrypted by PBES2 with PBKDF2-HMAC-SHA-256 and
// AES-256-CBC, so that `openssl pkey -in key.pem` opens it too. CBC has no
// integrity: a changed file is noticed because what comes out must be one whole
// key, not because it is authenticated.
//
// Invariants: a file is made with mode 0600, completely or not at all, and
// never over another; one that others can read is refused; each opening is a
// warning in the log.
//
// Standards: RFC 5958 (PKCS #8), RFC 8018 (PBES2), RFC 7914 (scrypt, for
// reading). Start reading at [Store.Signer].
package software
