package policy

import (
	"fmt"
	"testing"
)

// device is the policy of an ordinary device: its own topics and shadow.
func device(i int) string {
	const t = "${iot:Connection.Thing.ThingName}"
	return document(
		when(allow("iot:Connect", "client/"+t), `{"Bool":{"iot:Connection.Thing.IsAttached":"true"}}`),
		fmt.Sprintf(`{"Effect":"Allow","Action":["iot:Publish","iot:Receive"],"Resource":["arn:aws:iot:*:*:topic/plant%d/%s/*","arn:aws:iot:*:*:topic/$aws/things/%s/shadow/*"]}`, i, t, t),
		fmt.Sprintf(`{"Effect":"Allow","Action":"iot:Subscribe","Resource":["arn:aws:iot:*:*:topicfilter/plant%d/%s/*","arn:aws:iot:*:*:topicfilter/$aws/things/%s/*"]}`, i, t, t),
		fmt.Sprintf(`{"Effect":"Deny","Action":"iot:Publish","Resource":"arn:aws:iot:*:*:topic/plant%d/*/admin/*"}`, i))
}

func attached(b testing.TB, policies int) []*Document {
	var docs []*Document
	for i := range policies {
		docs = append(docs, parse(b, device(i)))
	}
	return docs
}

func BenchmarkParse(b *testing.B) {
	doc := []byte(device(0))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(doc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1, 10} {
		b.Run(fmt.Sprint(n, "policies"), func(b *testing.B) {
			docs := attached(b, n)
			b.ReportAllocs()
			for b.Loop() {
				Compile(docs...)
			}
		})
	}
}

func BenchmarkBind(b *testing.B) {
	for _, n := range []int{1, 10} {
		b.Run(fmt.Sprint(n, "policies"), func(b *testing.B) {
			set := Compile(attached(b, n)...)
			b.ReportAllocs()
			for b.Loop() {
				set.Bind(press)
			}
		})
	}
}

func BenchmarkAllows(b *testing.B) {
	for _, n := range []int{1, 10} {
		bound := Compile(attached(b, n)...).Bind(press)
		for _, row := range []struct {
			name, topic string
			want        bool
		}{
			{"hit", fmt.Sprintf("plant%d/press-7/line/4/temperature", n-1), true},
			{"miss", "plant0/press-8/line/4/temperature", false},
			{"deny", fmt.Sprintf("plant%d/press-7/admin/reset", n-1), false},
		} {
			b.Run(fmt.Sprint(n, "policies/", row.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if bound.Allows(Publish, row.topic) != row.want {
						b.Fatal("wrong")
					}
				}
			})
		}
	}
}

// The check for a message allocates nothing.
func TestBound_AllowsWithoutAllocation(t *testing.T) {
	bound := Compile(attached(t, 10)...).Bind(press)
	if n := testing.AllocsPerRun(100, func() {
		bound.Allows(Publish, "plant9/press-7/line/4/temperature")
		bound.Allows(Subscribe, "plant9/press-8/#")
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	ctx := &Context{ClientID: "x", Thing: Thing{Attached: true}}
	set := Compile(parse(t, document(when(allow("iot:Publish", "topic/a/*"), `{"Bool":{"iot:Connection.Thing.IsAttached":"true"},"StringLike":{"iot:ClientId":"x*"}}`))))
	if n := testing.AllocsPerRun(100, func() { set.Allows(ctx, Publish, "a/b") }); n > 0 {
		t.Errorf("%v allocations without variables", n)
	}
}
