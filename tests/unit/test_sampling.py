import torch
from diffusers import DDIMScheduler, DDPMScheduler

from vlv.sampling import denoise, guide, mix_seed, sample_generators, sample_noise, sample_timesteps


def test_noise_depends_on_seed_and_position_alone():
    whole = sample_noise((2, 3), sample_generators(1, [4, 5, 6]))
    assert torch.equal(whole[2], sample_noise((2, 3), sample_generators(1, [6]))[0])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[0], sample_noise((2, 3), sample_generators(2, [4]))[0])


def test_noise_is_standard_normal_over_positions():
    noise = sample_noise((16,), sample_generators(0, list(range(2000))))
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02


def test_timesteps_are_uniform():
    timesteps = sample_timesteps(10, sample_generators(3, list(range(5000))))
    counts = torch.bincount(timesteps, minlength=10)
    assert timesteps.dtype == torch.int64
    assert counts.min() > 400
    assert counts.max() < 600


def test_mixed_seeds_do_not_collide_for_neighbours():
    seeds = {mix_seed(seed, position) for seed in range(50) for position in range(200)}
    assert len(seeds) == 50 * 200


def test_guidance_by_hand():
    assert guide(torch.tensor(1.0), torch.tensor(3.0), 2.0).item() == 5.0


def test_denoise_is_the_schedulers_own_loop():
    scheduler = DDIMScheduler(clip_sample=False)
    latents = torch.randn(2, 1, 2, 2)
    drawn = denoise(lambda x, t: x * 0.1, scheduler, latents, 5, sample_generators(0, [0, 1]))
    expected = latents
    for timestep in scheduler.timesteps:
        expected = scheduler.step(expected * 0.1, timestep, expected).prev_sample
    assert torch.allclose(drawn, expected)


def test_noise_on_the_way_comes_from_each_images_generator():
    def draw(positions):
        latents = torch.ones(len(positions), 1, 2, 2)
        return denoise(
            lambda x, t: x * 0.1, DDPMScheduler(clip_sample=False), latents, 4, sample_generators(0, positions)
        )

    assert torch.allclose(draw([7, 8])[1], draw([8])[0])
