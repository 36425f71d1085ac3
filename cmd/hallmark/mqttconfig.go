package main

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"hallmark/broker"
	"hallmark/internal/strictjson"
)

// MQTTConfig configures the broker.
type MQTTConfig struct {
	// Profile is standard, or reference: the cloud's limits and behaviour wherever
	// they differ from the standards. Default standard.
	Profile string `yaml:"profile"`
	// Limits changes single limits of the profile; the names are those of
	// [broker.Limits] in small letters with underscores.
	Limits map[string]string `yaml:"limits"`
}

// limits are the broker's limits: the profile's, and what was changed.
func (c *MQTTConfig) limits() (l broker.Limits, err error) {
	switch c.Profile {
	case "", "standard":
	case "reference":
		l = broker.Reference()
	default:
		return l, errConfig.New("mqtt.profile: %q is neither standard nor reference.", c.Profile)
	}
	v := reflect.ValueOf(&l).Elem()
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		fields[limitName(v.Type().Field(i).Name)] = v.Field(i)
	}
	for key, text := range c.Limits {
		f, ok := fields[key]
		if !ok {
			hint := ""
			if n := strictjson.Nearest(key, limitNames()); n != "" {
				hint = " Did you mean " + n + "?"
			}
			return l, errConfig.New("mqtt.limits: there is no limit %q.%s", key, hint)
		}
		switch f.Interface().(type) {
		case time.Duration:
			d, err := time.ParseDuration(text)
			if err != nil {
				return l, errConfig.New("mqtt.limits.%s: %q is not a duration such as 30s.", key, text)
			}
			f.SetInt(int64(d))
		case bool:
			b, err := strconv.ParseBool(text)
			if err != nil {
				return l, errConfig.New("mqtt.limits.%s: %q is neither true nor false.", key, text)
			}
			f.SetBool(b)
		default:
			n, err := strconv.Atoi(text)
			if err != nil {
				return l, errConfig.New("mqtt.limits.%s: %q is not a whole number.", key, text)
			}
			f.SetInt(int64(n))
		}
	}
	return l, nil
}

// limitNames are the keys of mqtt.limits.
func limitNames() []string {
	t := reflect.TypeFor[broker.Limits]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = limitName(t.Field(i).Name)
	}
	slices.Sort(names)
	return names
}

// limitName is PerAddress as per_address, QoS2 as qos2.
func limitName(field string) string {
	field = strings.NewReplacer("QoS", "Qos", "IDs", "Ids").Replace(field)
	var b strings.Builder
	for i, r := range field {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
