package fault

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

var errTest = Define(Conflict, "test-conflict", "It is taken.", "Take another.")

func TestFault_IsFoundThroughWrapping(t *testing.T) {
	cause := errors.New("row 7")
	err := fmt.Errorf("outer: %w", errTest.Wrap(cause, "unit %s", "SN1"))
	if !errors.Is(err, errTest) {
		t.Error("errors.Is does not find the definition")
	}
	if !errors.Is(err, cause) {
		t.Error("errors.Is does not find the cause")
	}
	if f := From(err); f.Kind != Conflict || f.Detail != "unit SN1" {
		t.Errorf("got %v %q", f.Kind, f.Detail)
	}
	if !strings.Contains(err.Error(), "row 7") {
		t.Error("the log form hides the cause")
	}
}

func TestFrom_UnknownErrorIsInternal(t *testing.T) {
	f := From(errors.New("secret path"))
	if f.Kind != Internal || f.Code != "internal" {
		t.Errorf("got %v %s", f.Kind, f.Code)
	}
	if strings.Contains(f.What+f.Detail+f.Next, "secret") {
		t.Error("the cause leaks into what a caller sees")
	}
}

func TestDefine_RefusesACodeTwice(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Define(Invalid, "test-conflict", "", "")
}
