package ota_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/ota"
	"hallmark/internal/fault"
)

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return fault.From(err).Code
}

// TestURL_IsForOneDeviceOneImageAndATime, and serves ranges; somebody else's client
// reads them.
func TestURL_IsForOneDeviceOneImageAndATime(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("apt-get install curl")
	}
	s := newSite(t)
	image := s.released("1.1", "good", nil)
	s.released("1.2", "good", nil)
	a, err := s.ota.Get(t.Context(), scope, "lamp", "1.1")
	must(t, err)
	sign := func(expires time.Time) string {
		u, err := s.ota.Sign(t.Context(), scope.Tenant, "thing-1", s.ota.URL(&a), expires)
		must(t, err)
		return u
	}
	out := filepath.Join(t.TempDir(), "out")
	curl := func(args ...string) string {
		t.Helper()
		b, err := exec.Command("curl", append([]string{"-sS", "-k", "-o", out, "-w", "%{http_code}"}, args...)...).Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return string(b)
	}
	good := sign(time.Now().Add(time.Hour))
	for _, c := range []struct {
		args []string
		code string
		want []byte
	}{
		{[]string{good}, "200", image}, {[]string{"-r", "100-199", good}, "206", image[100:200]}, {[]string{"-r", "40000-", good}, "206", image[40000:]}, {[]string{"-r", "-50", good}, "206", image[len(image)-50:]},
		{[]string{"-r", "900000-", good}, "416", nil}, {[]string{"-r", "100-", "-H", `If-Range: "other"`, good}, "200", image}, {[]string{"-r", "100-", "-H", `If-Range: "` + a.Digest + `"`, good}, "206", image[100:]},
	} {
		if code := curl(c.args...); code != c.code {
			t.Errorf("%v: %s", c.args, code)
		}
		if got, err := os.ReadFile(out); c.want != nil && (err != nil || !bytes.Equal(got, c.want)) {
			t.Errorf("%v: %d octets %v", c.args, len(got), err)
		}
	}
	for what, u := range map[string]string{
		"another device": strings.Replace(good, "thing=thing-1", "thing=thing-2", 1), "another image": strings.Replace(good, "/1.1?", "/1.2?", 1), "another tenant": strings.Replace(good, "tenant=main", "tenant=other", 1),
		"later": strings.Replace(good, "expires=", "expires=9", 1), "over": sign(time.Now().Add(-time.Second)), "unsigned": s.ota.URL(&a), "half a signature": good[:len(good)-10],
	} {
		if code := curl(u); code != "403" {
			t.Errorf("%s: %s", what, code)
		}
	}
	for _, u := range []string{"https://example.com/firmware/v1/lamp/1.1", s.URL + "/firmware/v1/lamp/9.9", s.URL + "/other", s.URL + "/firmware/v1/../lamp/1.1"} {
		if _, err := s.ota.Sign(t.Context(), scope.Tenant, "thing-1", u, time.Now().Add(time.Hour)); codeOf(err) != "firmware-url-foreign" {
			t.Errorf("%s: %v", u, err)
		}
	}
	_, err = s.ota.Withdraw(t.Context(), scope.Tenant, "lamp", "1.1", "ann")
	must(t, err)
	if code := curl(good); code != "403" {
		t.Errorf("withdrawn: %s", code)
	}
}

// TestPublish_TakesNothingThatIsNotSignedWholeAndNew (S40), and nobody gets it before a
// second person's word (S36).
func TestPublish_TakesNothingThatIsNotSignedWholeAndNew_S40_S36(t *testing.T) {
	s := newSite(t)
	image := build("1.1", "good")
	m := manifestOf(image, "1.1")
	raw := s.sign(m)
	publish := func(raw []byte) error {
		_, err := s.ota.Publish(t.Context(), scope.Tenant, "ann", raw)
		return err
	}
	if err := publish(raw); codeOf(err) != "firmware-image" {
		t.Errorf("without its image: %v", err)
	}
	bad := bytes.Clone(image)
	bad[7] ^= 1
	for what, octets := range map[string][]byte{"another": bad, "shorter": image[1:]} {
		if err := s.ota.Upload(t.Context(), scope.Tenant, m.DigestHex(), m.Size, bytes.NewReader(octets)); codeOf(err) != "firmware-image" {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, s.ota.Upload(t.Context(), scope.Tenant, m.DigestHex(), m.Size, bytes.NewReader(image)))
	altered := bytes.Clone(raw)
	altered[len(altered)-1] ^= 1
	if err := publish(altered); codeOf(err) != "firmware-signature" {
		t.Errorf("altered: %v", err)
	}
	old := *m
	old.Version, old.Expires = "1.0.1", time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := publish(s.sign(&old)); codeOf(err) != "firmware-expired" {
		t.Errorf("expired: %v", err)
	}
	must(t, publish(raw))
	must(t, publish(raw)) // the same again
	later := *m
	later.Expires = m.Expires.Add(time.Hour)
	if err := publish(s.sign(&later)); codeOf(err) != "firmware-exists" {
		t.Errorf("another of the version: %v", err)
	}
	spec := campaign.Spec{Kind: campaign.Firmware, Query: "thingName:*", Parameters: json.RawMessage(`{"class":"lamp","version":"1.1"}`)}
	if _, err := s.campaigns.Create(t.Context(), scope.Tenant, "c", "ann", spec); codeOf(err) != "firmware-state" {
		t.Errorf("not released: %v", err)
	}
	if _, err := s.ota.Release(t.Context(), scope.Tenant, "lamp", "1.1", strings.Repeat("0", 64), "bob"); codeOf(err) != "firmware-approval" {
		t.Errorf("another hash: %v", err)
	}
	a, err := s.ota.Get(t.Context(), scope, "lamp", "1.1")
	must(t, err)
	_, err = s.ota.Release(t.Context(), scope.Tenant, "lamp", "1.1", a.Hash(), "bob")
	must(t, err)
	if _, err := s.ota.Get(t.Context(), access.Scope{Tenant: "other"}, "lamp", "1.1"); codeOf(err) != "firmware-unknown" {
		t.Errorf("another tenant: %v", err)
	}
	c, err := s.campaigns.Create(t.Context(), scope.Tenant, "c", "ann", spec)
	if err != nil || c.State != campaign.AwaitingApproval {
		t.Errorf("a campaign of one person: %s %v", c.State, err)
	}
}

// told has a device that is told of a campaign, and asks the stream for what the test
// wants; it gives what was replied, by the end of the topic.
func (s *site) stream(u *unit, name, topic string, payload []byte) (out []string, bodies [][]byte) {
	s.t.Helper()
	full := "$aws/things/" + string(u.thing) + "/streams/" + name + "/" + topic
	must(s.t, s.ota.Topics()[0].Handle(s.t.Context(), fleet.Request{Sender: fleet.Sender{Tenant: scope.Tenant, Thing: u.thing}, Topic: full, Levels: strings.Split(full, "/"), Payload: payload, Reply: func(topic string, b []byte) {
		out = append(out, strings.TrimPrefix(topic, "$aws/things/"+string(u.thing)+"/streams/"+name+"/"))
		bodies = append(bodies, b)
	}}))
	return out, bodies
}

// TestStream_SpeaksTheWire in both forms, with blocks, offset, count and bitmap, to the
// devices that have the job and to nobody else.
func TestStream_SpeaksTheWire(t *testing.T) {
	s := newSite(t)
	u, other := s.unit(1), s.unit(2)
	image := s.released("1.1", "good", nil)
	c := s.rollout("c1", "1.1", spec(u))
	name := c.Job(false)
	s.eventually("it is offered", func() bool { return s.member("c1", u).State == campaign.Offered })

	topics, bodies := s.stream(u, name, "describe/json", []byte(`{"c":"x"}`))
	if want := fmt.Sprintf(`{"c":"x","s":1,"d":"lamp 1.1","r":[{"f":0,"z":%d}]}`, len(image)); len(topics) != 1 || topics[0] != "description/json" || string(bodies[0]) != want {
		t.Errorf("%v %s", topics, bodies)
	}
	// A bitmap picks blocks; bit 0 of octet 0 is the block of the offset.
	topics, bodies = s.stream(u, name, "get/json", []byte(`{"c":"y","s":1,"f":0,"l":1000,"o":10,"n":5,"b":"0x0d02"}`))
	var got []int64
	for i, b := range bodies {
		var v struct {
			C       string
			F, L, I int64
			P       string
		}
		must(t, json.Unmarshal(b, &v))
		octets, err := base64.StdEncoding.DecodeString(v.P)
		must(t, err)
		if topics[i] != "data/json" || v.C != "y" || v.F != 0 || v.L != 1000 || !bytes.Equal(octets, image[v.I*1000:(v.I+1)*1000]) {
			t.Errorf("%s %+v", topics[i], v)
		}
		got = append(got, v.I)
	}
	if fmt.Sprint(got) != "[10 12 13 19]" {
		t.Errorf("%v", got)
	}
	// CBOR, whole; the last block is as long as it is.
	var whole []byte
	for o := 0; len(whole) < len(image); {
		q, err := cbor.Marshal(map[string]any{"c": "rdy", "f": 0, "l": 4096, "o": o, "n": 4, "b": []byte{0xff}})
		must(t, err)
		topics, bodies = s.stream(u, name, "get/cbor", q)
		if len(bodies) == 0 || len(bodies) > 4 {
			t.Fatalf("%v", topics)
		}
		for _, b := range bodies {
			var v map[string]any
			must(t, cbor.Unmarshal(b, &v))
			p, _ := v["p"].([]byte)
			if v["c"] != "rdy" || v["i"] != uint64(o) || v["l"] != uint64(len(p)) {
				t.Errorf("%v", v["i"])
			}
			whole = append(whole, p...)
			o++
		}
	}
	if !bytes.Equal(whole, image) {
		t.Error("the image is another")
	}
	// At most 128 KiB for one request.
	if _, bodies = s.stream(u, name, "get/json", []byte(`{"f":0,"l":256,"n":98304}`)); len(bodies) != (len(image)+255)/256 {
		t.Errorf("%d blocks", len(bodies))
	}
	for payload, code := range map[string]string{
		`{"f":0}`: "InvalidRequest", `{"f":0,"l":255}`: "BlockSizeOutOfBounds", `{"f":0,"l":131073}`: "BlockSizeOutOfBounds", `{"f":1,"l":256}`: "ResourceNotFound", `{"f":0,"l":256,"s":2}`: "VersionMismatch",
		`{"f":0,"l":256,"o":9999}`: "OffsetOutOfBounds", `{"f":0,"l":256,"o":-1}`: "OffsetOutOfBounds", `{"f":0,"l":256,"o":9223372036854775807}`: "OffsetOutOfBounds", `{"f":0,"l":256,"n":0}`: "BlockCountLimitExceeded", `{"f":0,"l":256,"n":98305}`: "BlockCountLimitExceeded",
		`{"f":0,"l":256,"b":"` + strings.Repeat("00", 12289) + `"}`: "BlockBitmapLimitExceeded", `{"f":0,"l":256,"b":"zz"}`: "InvalidRequest", `{`: "InvalidJson", `{"f":"0"}`: "InvalidJson",
	} {
		topics, bodies = s.stream(u, name, "get/json", []byte(payload))
		if len(topics) != 1 || topics[0] != "rejected/json" || !strings.Contains(string(bodies[0]), `"o":"`+code+`"`) {
			t.Errorf("%.60s: %v %s", payload, topics, bodies)
		}
	}
	if topics, bodies = s.stream(u, name, "get/cbor", []byte{0xff}); len(topics) != 1 || topics[0] != "rejected/cbor" {
		t.Errorf("%v %s", topics, bodies)
	}
	for _, c := range []struct {
		u    *unit
		name string
	}{{other, name}, {u, "campaign-c2"}, {u, "other"}, {u, name + "-undo"}} {
		if topics, bodies = s.stream(c.u, c.name, "get/json", []byte(`{"f":0,"l":256}`)); len(topics) != 1 || !strings.Contains(string(bodies[0]), `"o":"ResourceNotFound"`) {
			t.Errorf("%s %s: %v", c.u.thing, c.name, topics)
		}
	}
	_, err := s.jobs.Update(t.Context(), scope.Tenant, u.thing, name, jobs.Update{Status: jobs.Rejected})
	must(t, err)
	if _, bodies = s.stream(u, name, "get/json", []byte(`{"f":0,"l":256}`)); !strings.Contains(string(bodies[0]), `"o":"ResourceNotFound"`) {
		t.Errorf("after its end: %s", bodies)
	}
}

// Whatever a device asks a stream, it gets an answer of the wire or none.
func FuzzStream(f *testing.F) {
	f.Add([]byte(`{"f":0,"l":256,"o":3,"n":2,"b":"0x07"}`), true)
	f.Add([]byte{0xa2, 0x61, 'f', 0, 0x61, 'l', 0x19, 1, 0}, false)
	f.Fuzz(func(t *testing.T, payload []byte, plain bool) {
		ota.TryBlocks(payload, plain, 100_000)
	})
}

// TestUpload_GoesOnWhereItWas: parts that do not follow are not taken.
func TestUpload_GoesOnWhereItWas(t *testing.T) {
	s := newSite(t)
	image := build("1.1", "good")
	m := manifestOf(image, "1.1")
	part := func(offset int64, octets []byte) int64 {
		t.Helper()
		have, err := s.ota.UploadPart(t.Context(), scope.Tenant, m.DigestHex(), m.Size, offset, octets)
		must(t, err)
		return have
	}
	for i, c := range []struct {
		offset, until, want int64
	}{{0, 1000, 1000}, {2000, 3000, 1000}, {0, 1000, 1000}, {1000, 30000, 30000}, {30000, m.Size, m.Size}, {0, 10, m.Size}} {
		if have := part(c.offset, image[c.offset:c.until]); have != c.want {
			t.Errorf("%d: %d", i, have)
		}
	}
	s.publish(s.sign(m), image)
	if _, err := s.ota.UploadPart(t.Context(), scope.Tenant, hex.EncodeToString(make([]byte, 32)), 10, 0, make([]byte, 10)); codeOf(err) != "firmware-image" {
		t.Errorf("another digest: %v", err)
	}
}
