package lane

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestActivity_LingersAfterTheLastWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Activity
		if a.Busy() {
			t.Error("busy before any work")
		}
		first, second := a.Enter(), a.Enter()
		first()
		time.Sleep(time.Minute)
		if !a.Busy() {
			t.Error("not busy with work inside")
		}
		second()
		if !a.Busy() {
			t.Error("not busy right after it")
		}
		time.Sleep(linger)
		if a.Busy() {
			t.Error("busy long after it")
		}
	})
}
