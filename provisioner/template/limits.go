package template

// Sizes and their reasons. The first group is the wire's, the second ours.
const (
	MaxBody           = 10 << 10 // bytes of a template
	maxThingName      = 128      // also types, groups, billing groups
	maxPolicyName     = 128
	maxAttributeKey   = 128
	maxAttributeValue = 800
	maxAttributes     = 50 // of a thing with a type
	maxUntyped        = 3  // attributes of a thing without one

	maxParameters     = 128       // given by one source
	maxParameterName  = 128       // bytes
	maxParameterValue = 16 << 10  // bytes: a certificate with a chain in bulk registration
	maxString         = 32 << 10  // bytes of one intermediate string: two of the largest values
	maxOutput         = 256 << 10 // bytes over all intermediate strings of one evaluation: nested Fn::Sub doubles with each level
	maxSteps          = 20_000    // nodes visited; a 10 KiB template has some 2,000
	maxList           = 1024      // elements that Fn::Split may give
	maxPieces         = 4096      // of all policy documents that are built as text
	maxPolicies       = 10        // of one certificate
	maxGroups         = 10        // of one thing
	maxConfigKey      = 128       // bytes of a DeviceConfiguration key
	maxConfig         = 16 << 10  // bytes of a DeviceConfiguration: it must fit an MQTT message
	maxDocument       = 32 << 10  // bytes of an evaluated policy document
)
