// SPDX-License-Identifier: GPL-2.0
/* A cpuidle driver with one state, for cpuidle.rs: kernel::bindings lacks the structures. */
#include <linux/cpu.h>
#include <linux/cpuidle.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/sched/idle.h>
#include <linux/slab.h>
#include <asm/apic.h>
#include <asm/processor.h>

typedef void (*rust_cpuidle_enter_t)(const void *context, unsigned int cpu);

struct rust_cpuidle {
	struct cpuidle_driver driver;
	struct cpuidle_device __percpu *devices;
	rust_cpuidle_enter_t enter;
	const void *context;
};

struct rust_cpuidle *rust_cpuidle_register(const char *name, const char *desc,
					   rust_cpuidle_enter_t enter, const void *context);
void rust_cpuidle_unregister(struct rust_cpuidle *this);
int rust_cpuidle_add(struct rust_cpuidle *this, unsigned int cpu);
void rust_cpuidle_remove(struct rust_cpuidle *this, unsigned int cpu);
const char *rust_cpuidle_current_driver(void);
bool rust_cpuidle_is_overridden(void);
bool rust_helper_current_set_polling_and_test(void);
void rust_helper_current_clr_polling(void);
bool rust_helper_tif_need_resched(void);
void rust_helper_set_current_need_resched(void);
unsigned long rust_helper_current_switches(void);
void rust_helper_apic_send_self(u8 vector);

static __cpuidle int rust_cpuidle_enter(struct cpuidle_device *dev, struct cpuidle_driver *drv, int index)
{
	struct rust_cpuidle *this = container_of(drv, struct rust_cpuidle, driver);

	this->enter(this->context, dev->cpu);
	return index;
}

/*
 * The driver has no owner: each device would hold a reference to the module, which could then not be unloaded, which is
 * when it removes the devices.
 */
struct rust_cpuidle *rust_cpuidle_register(const char *name, const char *desc,
					   rust_cpuidle_enter_t enter, const void *context)
{
	struct rust_cpuidle *this = kzalloc(sizeof(*this), GFP_KERNEL);
	struct cpuidle_state *state;
	int ret = -ENOMEM;

	if (!this)
		return ERR_PTR(ret);
	this->devices = alloc_percpu(struct cpuidle_device);
	if (!this->devices)
		goto free;
	this->enter = enter;
	this->context = context;
	this->driver.name = name;
	this->driver.state_count = 1;
	state = &this->driver.states[0];
	strscpy(state->name, name);
	strscpy(state->desc, desc);
	state->enter = rust_cpuidle_enter;
	state->exit_latency = 1;
	state->target_residency = 1;
	state->power_usage = -1;
	ret = cpuidle_register_driver(&this->driver);
	if (!ret)
		return this;
	free_percpu(this->devices);
free:
	kfree(this);
	return ERR_PTR(ret);
}

/* All devices must have been removed. */
void rust_cpuidle_unregister(struct rust_cpuidle *this)
{
	cpuidle_unregister_driver(&this->driver);
	free_percpu(this->devices);
	kfree(this);
}

int rust_cpuidle_add(struct rust_cpuidle *this, unsigned int cpu)
{
	struct cpuidle_device *dev = per_cpu_ptr(this->devices, cpu);

	dev->cpu = cpu;
	return cpuidle_register_device(dev);
}

void rust_cpuidle_remove(struct rust_cpuidle *this, unsigned int cpu)
{
	cpuidle_unregister_device(per_cpu_ptr(this->devices, cpu));
}

/* The name of the registered driver, or NULL. It is valid as long as the driver's module. */
const char *rust_cpuidle_current_driver(void)
{
	struct cpuidle_driver *driver = cpuidle_get_driver();

	return driver ? driver->name : NULL;
}

/* Whether the kernel's command line has idle=. */
bool rust_cpuidle_is_overridden(void)
{
	return boot_option_idle_override != IDLE_NO_OVERRIDE;
}

/* enter() calls the rest, where RCU is not watching. */

__cpuidle bool rust_helper_current_set_polling_and_test(void)
{
	return current_set_polling_and_test();
}

__cpuidle void rust_helper_current_clr_polling(void)
{
	current_clr_polling();
}

__cpuidle bool rust_helper_tif_need_resched(void)
{
	return tif_need_resched();
}

__cpuidle void rust_helper_set_current_need_resched(void)
{
	set_thread_flag(TIF_NEED_RESCHED);
}

__cpuidle unsigned long rust_helper_current_switches(void)
{
	return READ_ONCE(current->nvcsw) + READ_ONCE(current->nivcsw);
}

__cpuidle void rust_helper_apic_send_self(u8 vector)
{
	apic->send_IPI_self(vector);
}
