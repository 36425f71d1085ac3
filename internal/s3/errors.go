package s3

import "hallmark/internal/fault"

// The faults of a store.
var (
	ErrConfig = fault.Define(fault.Invalid, "s3-config", "The S3 store is not configured well.", "Correct what the detail names.")
	ErrAnswer = fault.Define(fault.Unavailable, "s3-answer", "The S3 store did not do what it was asked.", "See whether the store is up, its keys and the bucket.")
	ErrObject = fault.Define(fault.NotFound, "s3-object", "There is no such object in the S3 store.", "Look into the bucket.")
	ErrChange = fault.Define(fault.Conflict, "s3-object-changed", "An object in the S3 store became another while it was read.", "See who writes to the bucket besides this service.")
)
