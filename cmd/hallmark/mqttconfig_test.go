package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"hallmark/broker"
)

func TestMQTTConfig_ChangesSingleLimitsOfAProfile(t *testing.T) {
	c, err := parseConfig([]byte("mqtt:\n  profile: reference\n  limits:\n    qos2: true\n    connections: 5000\n    per_address: 7\n    no_subscription_ids: false\n    session_expiry: 2h\n"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.MQTT.limits()
	if err != nil {
		t.Fatal(err)
	}
	want := broker.Reference()
	want.QoS2, want.Connections, want.PerAddress, want.NoSubscriptionIDs, want.SessionExpiry = true, 5000, 7, false, 2*time.Hour
	if got != want {
		t.Errorf("got %+v", got)
	}
	for text, says := range map[string]string{
		"profile: cloud":                      "mqtt.profile",
		"limits: {connection: 5}":             "Did you mean connections?",
		"limits: {connections: many}":         "not a whole number",
		"limits: {session_expiry: 5}":         "not a duration",
		"limits: {qos2: 7}":                   "neither true nor false",
		"limits: {publish_rate: 100, xxx: 1}": "no limit",
	} {
		if _, err := parseConfig([]byte("mqtt: {"+strings.TrimSpace(text)+"}"), t.TempDir()); !errors.Is(err, errConfig) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestMQTTConfig_EachLimitIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n### limits\n")
	for _, n := range limitNames() {
		if !strings.Contains(section, "`"+n+"`") {
			t.Errorf("docs/configuration.md does not explain mqtt.limits.%s", n)
		}
	}
}
