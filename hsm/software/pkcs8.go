package software

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"hash"

	"golang.org/x/crypto/scrypt"

	"hallmark/hsm/token"
	"hallmark/internal/kdf"
)

const (
	// iterations is what OWASP asks for PBKDF2-HMAC-SHA-256 at the least.
	iterations = 600_000
	// A file is foreign bytes: these bound what its numbers can make us do.
	maxIterations = 10_000_000
	maxScryptCost = 1 << 28 // bytes of memory, 128·N·r
	maxFile       = 64 << 10

	pemType = "ENCRYPTED PRIVATE KEY"
)

var (
	oidPBES2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	oidHMACSHA1   = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidHMACSHA384 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 10}
	oidHMACSHA512 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}
	oidAES128CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

// RFC 5958, Section 3.
type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

// RFC 8018, Appendix A.4.
type pbes2Params struct {
	KDF    pkix.AlgorithmIdentifier
	Cipher pkix.AlgorithmIdentifier
}

// RFC 8018, Appendix A.2.
type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// RFC 7914, Section 7.
type scryptParams struct {
	Salt      []byte
	N, R, P   int
	KeyLength int `asn1:"optional"`
}

// envelope is the PEM block of an encrypted key, which needs no passphrase to be
// told from another one.
func envelope(file []byte) (*pem.Block, error) {
	if len(file) > maxFile {
		return nil, token.ErrFile.New("It is larger than any key.")
	}
	block, rest := pem.Decode(file)
	switch {
	case block == nil:
		return nil, token.ErrFile.New("It is not PEM.")
	case block.Type != pemType:
		return nil, token.ErrFile.New("It is %q, not %q. Encrypt it as PKCS #8: openssl pkcs8 -topk8 -v2 aes-256-cbc -iter 600000 -in KEY.pem -out ENCRYPTED.pem; the URI names its passphrase: ?passphrase-source=file:/PATH", block.Type, pemType)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, token.ErrFile.New("It holds more than a key.")
	}
	return block, nil
}

// Encrypt writes key as encrypted PKCS #8 PEM.
func Encrypt(key crypto.PrivateKey, passphrase token.Secret) ([]byte, error) {
	if passphrase.Empty() {
		return nil, token.ErrPINMissing.New("A key file needs a passphrase.")
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, token.ErrUnsupported.Wrap(err, "The key has no PKCS #8 form.")
	}
	defer clear(plain)
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	rand.Read(salt)
	rand.Read(iv)
	secret, err := kdf.PBKDF2(sha256.New, string(passphrase.Reveal()), salt, iterations, 32)
	if err != nil {
		return nil, token.ErrFile.Wrap(err, "The passphrase cannot be used.")
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, token.ErrFile.Wrap(err, "")
	}
	// RFC 8018, Section 6.1.1: pad with n bytes of value n.
	n := aes.BlockSize - len(plain)%aes.BlockSize
	data := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, data)

	null := asn1.RawValue{FullBytes: []byte{5, 0}}
	parameters := marshal(pbkdf2Params{Salt: salt, Iterations: iterations, PRF: pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256, Parameters: null}})
	params := marshal(pbes2Params{
		KDF:    pkix.AlgorithmIdentifier{Algorithm: oidPBKDF2, Parameters: parameters},
		Cipher: pkix.AlgorithmIdentifier{Algorithm: oidAES256CBC, Parameters: marshal(iv)},
	})
	der := marshal(encryptedKey{Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: params}, Data: data})
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der.FullBytes}), nil
}

// marshal encodes our own structures, which cannot fail.
func marshal(v any) asn1.RawValue {
	der, _ := asn1.Marshal(v)
	return asn1.RawValue{FullBytes: der}
}

// Decrypt reads encrypted PKCS #8 PEM.
func Decrypt(file []byte, passphrase token.Secret) (crypto.Signer, error) {
	block, err := envelope(file)
	if err != nil {
		return nil, err
	}
	var key encryptedKey
	if err := unmarshal(block.Bytes, &key); err != nil {
		return nil, err
	}
	if !key.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, token.ErrFile.New("It is encrypted by %v, not by PBES2.", key.Algorithm.Algorithm)
	}
	var params pbes2Params
	if err := unmarshal(key.Algorithm.Parameters.FullBytes, &params); err != nil {
		return nil, err
	}
	var size int
	switch {
	case params.Cipher.Algorithm.Equal(oidAES256CBC):
		size = 32
	case params.Cipher.Algorithm.Equal(oidAES128CBC):
		size = 16
	default:
		return nil, token.ErrFile.New("Its cipher %v is not AES-CBC.", params.Cipher.Algorithm)
	}
	var iv []byte
	if err := unmarshal(params.Cipher.Parameters.FullBytes, &iv); err != nil {
		return nil, err
	}
	if len(iv) != aes.BlockSize || len(key.Data) == 0 || len(key.Data)%aes.BlockSize != 0 {
		return nil, token.ErrFile.New("Its lengths are not those of AES-CBC.")
	}
	secret, err := derive(params.KDF, passphrase, size)
	if err != nil {
		return nil, err
	}
	aesBlock, err := aes.NewCipher(secret)
	if err != nil {
		return nil, token.ErrFile.Wrap(err, "")
	}
	plain := make([]byte, len(key.Data))
	defer clear(plain)
	cipher.NewCBCDecrypter(aesBlock, iv).CryptBlocks(plain, key.Data)
	n := int(plain[len(plain)-1])
	if n == 0 || n > aes.BlockSize || !bytes.Equal(plain[len(plain)-n:], bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, token.ErrPassphraseRefused.New("")
	}
	// A wrong passphrase has right padding once in 256 times; then this fails.
	parsed, err := x509.ParsePKCS8PrivateKey(plain[:len(plain)-n])
	if err != nil {
		return nil, token.ErrPassphraseRefused.New("")
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok || token.AlgorithmOf(signer.Public()) == "" {
		return nil, token.ErrUnsupported.New("The file holds a kind or size of key that we do not use.")
	}
	return signer, nil
}

func unmarshal(der []byte, v any) error {
	rest, err := asn1.Unmarshal(der, v)
	if err == nil && len(rest) > 0 {
		err = errors.New("bytes follow the structure")
	}
	if err != nil {
		return token.ErrFile.Wrap(err, "It is not well encoded.")
	}
	return nil
}

func derive(method pkix.AlgorithmIdentifier, passphrase token.Secret, size int) ([]byte, error) {
	switch {
	case method.Algorithm.Equal(oidPBKDF2):
		var p pbkdf2Params
		if err := unmarshal(method.Parameters.FullBytes, &p); err != nil {
			return nil, err
		}
		var h func() hash.Hash
		switch prf := p.PRF.Algorithm; {
		case len(prf) == 0, prf.Equal(oidHMACSHA1):
			if fips140.Enabled() {
				return nil, token.ErrFile.New("It is protected by PBKDF2 with SHA-1, which the FIPS build does not do; `openssl pkcs8 -topk8 -v2prf hmacWithSHA256` protects it anew.")
			}
			h = sha1.New // RFC 8018, Appendix A.2: the default
		case prf.Equal(oidHMACSHA256):
			h = sha256.New
		case prf.Equal(oidHMACSHA384):
			h = sha512.New384
		case prf.Equal(oidHMACSHA512):
			h = sha512.New
		default:
			return nil, token.ErrFile.New("Its PBKDF2 uses %v.", prf)
		}
		if p.Iterations < 1 || p.Iterations > maxIterations || p.KeyLength != 0 && p.KeyLength != size {
			return nil, token.ErrFile.New("Its PBKDF2 parameters are out of bounds.")
		}
		key, err := kdf.PBKDF2(h, string(passphrase.Reveal()), p.Salt, p.Iterations, size)
		if err != nil {
			return nil, token.ErrFile.Wrap(err, "Its PBKDF2 parameters cannot be used.")
		}
		return key, nil
	case method.Algorithm.Equal(oidScrypt):
		if fips140.Enabled() {
			return nil, token.ErrFile.New("It is protected by scrypt, which the FIPS build does not do; `openssl pkcs8 -topk8 -v2prf hmacWithSHA256` protects it anew.")
		}
		var p scryptParams
		if err := unmarshal(method.Parameters.FullBytes, &p); err != nil {
			return nil, err
		}
		if p.N < 2 || p.R < 1 || p.P < 1 || p.R > 64 || p.P > 64 || p.N > maxScryptCost/128/p.R || p.KeyLength != 0 && p.KeyLength != size {
			return nil, token.ErrFile.New("Its scrypt parameters are out of bounds.")
		}
		key, err := scrypt.Key(passphrase.Reveal(), p.Salt, p.N, p.R, p.P, size)
		if err != nil {
			return nil, token.ErrFile.Wrap(err, "Its scrypt parameters cannot be used.")
		}
		return key, nil
	}
	return nil, token.ErrFile.New("Its key derivation %v is neither PBKDF2 nor scrypt.", method.Algorithm)
}
