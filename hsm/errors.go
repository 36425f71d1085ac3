package hsm

import "hallmark/hsm/token"

// The faults of this package. They are defined in package token because the
// backends report them too.
var (
	ErrURIInvalid        = token.ErrURIInvalid
	ErrKeyNotFound       = token.ErrKeyNotFound
	ErrNoCertificate     = token.ErrNoCertificate
	ErrKeyAmbiguous      = token.ErrKeyAmbiguous
	ErrKeyExists         = token.ErrKeyExists
	ErrTokenDown         = token.ErrTokenDown
	ErrPINRefused        = token.ErrPINRefused
	ErrPINMissing        = token.ErrPINMissing
	ErrPassphraseRefused = token.ErrPassphraseRefused
	ErrKeyUnsafe         = token.ErrKeyUnsafe
	ErrUnsupported       = token.ErrUnsupported
	ErrDigest            = token.ErrDigest
	ErrBusy              = token.ErrBusy
	ErrModule            = token.ErrModule
	ErrModuleStuck       = token.ErrModuleStuck
	ErrOperation         = token.ErrOperation
	ErrFile              = token.ErrFile
	ErrClosed            = token.ErrClosed
	ErrKeyDiffers        = token.ErrKeyDiffers
	ErrWrongSignature    = token.ErrWrongSignature
	ErrTransfer          = token.ErrTransfer
)
