package uplink

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"hallmark/internal/fault"
)

func TestCode_SurvivesHowPeopleTypeIt(t *testing.T) { // S14
	root := [32]byte{1, 2, 3, 31: 9}
	text, code := NewCode(nil, root)
	if len(text) > 128 {
		t.Errorf("it has %d characters; the request takes 128", len(text))
	}
	typed := map[string]string{
		"as made":       text,
		"lower case":    strings.ToLower(text),
		"no hyphens":    strings.ReplaceAll(text, "-", ""),
		"spaces":        "  " + strings.ReplaceAll(text, "-", "  ") + "\r\n",
		"O and I and L": strings.NewReplacer("0", "O").Replace(strings.Replace(text[5:], "1", "l", 1)),
		"long hyphens":  strings.ReplaceAll(text, "-", "\u2011"),
	}
	typed["O and I and L"] = "hmk1" + typed["O and I and L"]
	for name, s := range typed {
		got, gotRoot, err := ParseCode(s)
		if err != nil || got != code || gotRoot != root {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCode_NamesTheTypo(t *testing.T) {
	text, code := NewCode(bytes.NewReader(bytes.Repeat([]byte{0x5a}, 16)), [32]byte{7})
	if code[0] != 0x5a {
		t.Fatal("the source of randomness is not used")
	}
	groups := strings.Split(text, "-")
	wrong := func(g int, with string) string {
		c := append([]string(nil), groups...)
		c[g] = with
		return strings.Join(c, "-")
	}
	third := []byte(groups[3])
	third[2] = map[bool]byte{true: '7', false: '8'}[third[2] == '8']
	for name, c := range map[string]struct{ text, says string }{
		"one character": {wrong(3, string(third)), "group 3"},
		"an alien":      {wrong(4, "AB$DE"), "Character 3 of group 4"},
		"U":             {wrong(4, "ABUDE"), "Character 3 of group 4"},
		"a group lost":  {strings.Join(groups[:len(groups)-1], "-"), "75 characters"},
		"one too many":  {text + "A", "81 characters"},
		"prefix":        {text[5:], "HMK1"},
		"empty":         {"", "HMK1"},
		"huge":          {strings.Repeat("A", 5000), "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := ParseCode(c.text)
			if !errors.Is(err, ErrCode) {
				t.Fatalf("got %v", err)
			}
			if f := fault.From(err); !strings.Contains(f.Detail, c.says) {
				t.Errorf("it says %q, not %q", f.Detail, c.says)
			}
			if strings.Contains(err.Error(), groups[1]) {
				t.Error("the fault repeats the code")
			}
		})
	}
}

func TestCode_DoesNotShowItself(t *testing.T) {
	_, code := NewCode(nil, [32]byte{})
	j, err := json.Marshal(struct{ C Code }{code})
	if err != nil || string(j) != `{"C":"[code]"}` || fmt.Sprint(code) != "[code]" || code.LogValue().String() != "[code]" {
		t.Errorf("%s %v", j, err)
	}
}

func FuzzParseCode(f *testing.F) {
	text, _ := NewCode(nil, [32]byte{4})
	f.Add(text)
	f.Add(strings.ToLower(text))
	f.Add("HMK1-")
	f.Add("HMK1-\xff")
	f.Fuzz(func(t *testing.T, s string) {
		code, root, err := ParseCode(s)
		if err != nil {
			return
		}
		again, root2, err := ParseCode(formatCode(code, root))
		if err != nil || again != code || root2 != root {
			t.Errorf("%q reads otherwise when it is written again", s)
		}
	})
}
